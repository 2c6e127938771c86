package mmsg

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func listen(t *testing.T, addr string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func control(t *testing.T, conn *net.UDPConn, use func(fd uintptr)) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(use)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Datagrams of all sizes, more than one call takes, arrive in order and whole.
func TestSendAndReceive(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		from, fromAddr := listen(t, addr)
		to, toAddr := listen(t, addr)
		var payloads [][]byte
		for i := range sendSlots + 5 {
			payloads = append(payloads, bytes.Repeat([]byte{byte(i)}, i%3*700))
		}
		payloads = append(payloads, bytes.Repeat([]byte{7}, 65507))
		control(t, from, func(fd uintptr) {
			if n, err := new(Socket).Send(fd, toAddr, nil, payloads); n != len(payloads) || err != nil {
				t.Fatalf("%s: %d of %d sent, %v", addr, n, len(payloads), err)
			}
		})
		b, got := NewBatch(16, 1<<16, 0), 0
		control(t, to, func(fd uintptr) {
			for {
				n, err := new(Socket).Receive(fd, b)
				if err != nil {
					if err != unix.EAGAIN {
						t.Errorf("%s: receive: %v", addr, err)
					}
					return
				}
				for i := range n {
					if b.From(i) != fromAddr || !bytes.Equal(b.Payload(i), payloads[got]) {
						t.Errorf("%s: datagram %d: %d bytes from %s", addr, got, len(b.Payload(i)), b.From(i))
					}
					got++
				}
			}
		})
		if got != len(payloads) {
			t.Errorf("%s: %d of %d arrived", addr, got, len(payloads))
		}
	}
}

// The error belongs to the datagram behind those that were sent.
func TestSendSaysWhichFailed(t *testing.T) {
	from, _ := listen(t, "127.0.0.1:0")
	_, to := listen(t, "127.0.0.1:0")
	control(t, from, func(fd uintptr) {
		n, err := new(Socket).Send(fd, to, nil, [][]byte{{1}, {2}, make([]byte, 1<<16), {3}})
		if n != 2 || err != unix.EMSGSIZE {
			t.Errorf("%d sent, %v; want 2 and EMSGSIZE", n, err)
		}
	})
}

func TestControl(t *testing.T) {
	from, _ := listen(t, "127.0.0.1:0")
	to, toAddr := listen(t, "127.0.0.1:0")
	b := NewBatch(2, 100, 64)
	control(t, to, func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1); err != nil {
			t.Fatal(err)
		}
		control(t, from, func(fd uintptr) { _, _ = new(Socket).Send(fd, toAddr, nil, [][]byte{{1}}) })
		if n, err := new(Socket).Receive(fd, b); n != 1 || err != nil {
			t.Fatalf("receive: %d, %v", n, err)
		}
	})
	level, typ, data := b.Control(0)
	if level != unix.SOL_IP || typ != unix.IP_ORIGDSTADDR || ParseSockaddr(data) != toAddr {
		t.Errorf("control message %d %d %x, want the destination %s", level, typ, data, toAddr)
	}
	control(t, to, func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 0); err != nil {
			t.Fatal(err)
		}
		control(t, from, func(fd uintptr) { _, _ = new(Socket).Send(fd, toAddr, nil, [][]byte{{1}}) })
		if n, err := new(Socket).Receive(fd, b); n != 1 || err != nil {
			t.Fatalf("receive: %d, %v", n, err)
		}
	})
	if level, typ, data := b.Control(0); level != 0 || typ != 0 || data != nil {
		t.Errorf("a datagram without control messages has %d %d %x", level, typ, data)
	}
}

func FuzzParseSockaddr(f *testing.F) {
	f.Add([]byte{2, 0, 0, 80, 192, 0, 2, 1})
	f.Add([]byte{2, 0, 0, 80, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(append([]byte{10, 0, 0, 80}, make([]byte, 24)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if addr := ParseSockaddr(b); addr.Addr().Is4In6() || !addr.IsValid() && addr != (netip.AddrPort{}) {
			t.Errorf("ParseSockaddr(%x) = %v", b, addr)
		}
	})
}
