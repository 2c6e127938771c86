package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/stage"
)

// capture counts the UDP datagrams that pass one interface of a process's
// network namespace, by what they carry.
type capture struct {
	mu      sync.Mutex // guards what follows
	in, out [][]byte   // whole frames
}

// inNamespaceOf runs f with its thread in the network namespace of a process.
func inNamespaceOf(pid int, f func() error) error {
	done := make(chan error)
	go func() { // its thread keeps the other namespace, and ends with it
		runtime.LockOSThread()
		done <- func() error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace of process %d: %w", pid, err)
			}
			return f()
		}()
	}()
	return <-done
}

// startCapture watches an interface until the test ends.
func startCapture(t *testing.T, pid int, iface string) *capture {
	t.Helper()
	var socket *os.File
	err := inNamespaceOf(pid, func() error {
		link, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		all := int(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
		if err != nil {
			return err
		}
		socket = os.NewFile(uintptr(fd), "capture")
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: link.Index})
	})
	if err != nil {
		t.Fatalf("capture on %s: %v", iface, err)
	}
	c := &capture{}
	var reader sync.WaitGroup
	reader.Go(func() { c.read(t, socket) })
	t.Cleanup(func() {
		_ = socket.Close()
		reader.Wait()
	})
	return c
}

// read collects datagrams until the socket is closed.
func (c *capture) read(t *testing.T, socket *os.File) {
	raw, err := socket.SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	buf := make([]byte, 1<<17)
	for {
		var n int
		var from unix.Sockaddr
		var recvErr error
		err := raw.Read(func(fd uintptr) bool {
			n, from, recvErr = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(recvErr, unix.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if recvErr != nil || !ok || !isUDP(buf[:n]) {
			continue
		}
		c.mu.Lock()
		if frame := bytes.Clone(buf[:n]); link.Pkttype == unix.PACKET_OUTGOING {
			c.out = append(c.out, frame)
		} else {
			c.in = append(c.in, frame)
		}
		c.mu.Unlock()
	}
}

// isUDP tells a datagram from the ICMP error that quotes it.
func isUDP(frame []byte) bool {
	const header = 14 // Ethernet
	if len(frame) < header+20 {
		return false
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		return frame[header+9] == unix.IPPROTO_UDP
	case unix.ETH_P_IPV6:
		return frame[header+6] == unix.IPPROTO_UDP
	}
	return false
}

// count is how many datagrams that hold text came in and went out.
func (c *capture) count(text string) (in, out int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, frame := range c.in {
		if bytes.Contains(frame, []byte(text)) {
			in++
		}
	}
	for _, frame := range c.out {
		if bytes.Contains(frame, []byte(text)) {
			out++
		}
	}
	return in, out
}

// await waits until a datagram that holds text has passed.
func (c *capture) await(t *testing.T, text string) {
	t.Helper()
	stage.Eventually(t, 10*time.Second, "datagram "+text+" passes", func() bool {
		in, out := c.count(text)
		return in+out > 0
	})
}
