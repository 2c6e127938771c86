package relay

import (
	"net"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Both sides of a flow are asked whether they are still there: a container's own
// keepalive ends at the router, and would tell the far side nothing.
func TestTCPKeepsBothSidesAlive(t *testing.T) {
	noLeaks(t)
	left, a := pair(t)
	b, right := pair(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		TCP(t.Context(), a, b)
	}()
	ping := make([]byte, 1)
	if _, err := left.Write(ping); err != nil {
		t.Fatal(err)
	}
	if _, err := right.Read(ping); err != nil { // the relay works
		t.Fatal(err)
	}
	for name, peer := range map[string]net.Addr{"left": left.LocalAddr(), "right": right.LocalAddr()} {
		fd := connectedTo(t, peer)
		for option, want := range map[[2]int]int{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE}:      1,
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}:     120,
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}:    75,
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT}:      9,
			{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT}: 0, // it would override the count
		} {
			if got, err := unix.GetsockoptInt(fd, option[0], option[1]); got != want || err != nil {
				t.Errorf("towards %s: option %v is %d, %v; want %d", name, option, got, err, want)
			}
		}
	}
	_, _ = left.Close(), right.Close()
	<-ended
}

// connectedTo is our socket whose peer has that address, whoever holds it now.
func connectedTo(t *testing.T, peer net.Addr) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		fd, _ := strconv.Atoi(entry.Name())
		name, err := unix.Getpeername(fd)
		if in4, ok := name.(*unix.SockaddrInet4); err == nil && ok && addrPort(in4) == peer.(*net.TCPAddr).AddrPort() {
			return fd
		}
	}
	t.Fatalf("no socket is connected to %s", peer)
	return -1
}
