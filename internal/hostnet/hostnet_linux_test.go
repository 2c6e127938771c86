package hostnet

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
)

// What the kernel tells of this process's own sockets is what was opened.
func TestSockets(t *testing.T) {
	open := map[string]Socket{}
	add := func(network, addr string, both bool) {
		t.Helper()
		var at netip.AddrPort
		proto := portolan.TCP
		if network[:3] == "tcp" {
			l, err := new(net.ListenConfig).Listen(t.Context(), network, addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			at = l.Addr().(*net.TCPAddr).AddrPort()
		} else {
			c, err := new(net.ListenConfig).ListenPacket(t.Context(), network, addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			proto, at = portolan.UDP, c.LocalAddr().(*net.UDPAddr).AddrPort()
		}
		at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		open[network+addr] = Socket{Listener: portolan.Listener{Proto: proto, Addr: at}, Both: both}
	}
	add("tcp4", "0.0.0.0:0", false)
	add("tcp6", "[::]:0", false)
	add("tcp", ":0", true)
	add("tcp4", "127.0.0.1:0", false)
	add("udp", ":0", true)
	add("udp6", "[::1]:0", false)
	own := OwnSockets()
	sockets, err := Sockets()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range open {
		i := slices.IndexFunc(sockets, func(s Socket) bool { return s.Listener == want.Listener })
		switch {
		case i < 0:
			t.Errorf("%s: %s is not listed", name, want)
		case sockets[i].Both != want.Both:
			t.Errorf("%s: both families: %v", name, sockets[i].Both)
		case !own[sockets[i].Inode]:
			t.Errorf("%s: not one of this process's own", name)
		}
	}
}

// A connected UDP socket waits for nobody.
func TestConnectedIsNoListener(t *testing.T) {
	c, err := new(net.Dialer).DialContext(t.Context(), "udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sockets, err := Sockets()
	if err != nil {
		t.Fatal(err)
	}
	at := c.LocalAddr().(*net.UDPAddr).AddrPort()
	if slices.ContainsFunc(sockets, func(s Socket) bool { return s.Proto == portolan.UDP && s.Addr == at }) {
		t.Errorf("%s is listed", at)
	}
}

func FuzzDialRequest(f *testing.F) {
	f.Add([]byte(`{"proto":"tcp","addr":"192.0.2.1:80"}`))
	f.Add([]byte(`{"proto":"icmp","addr":"127.0.0.1:80"}`))
	f.Add([]byte(`{"proto":"tcp","addr":"127.0.0.1:0"}`))
	f.Fuzz(func(t *testing.T, request []byte) {
		file, err := dialLocal(t.Context(), request)
		if err == nil {
			_ = file.Close()
		}
	})
}

// What the agent answers is data of the machine's: nothing of it stays open.
func FuzzDialAnswer(f *testing.F) {
	f.Add([]byte(dialOK), []byte{})
	f.Add([]byte(`{"errno":111,"text":"refused"}`), []byte{})
	f.Fuzz(func(t *testing.T, answer, oob []byte) {
		if len(rights(oob)) > 0 { // descriptors of the fuzzer's own
			t.Skip()
		}
		to := portolan.Listener{Proto: portolan.TCP, Addr: netip.MustParseAddrPort("127.0.0.1:80")}
		if conn, err := received(to, answer, nil); err == nil {
			t.Errorf("a connection of nothing: %v", conn)
		}
	})
}

// The daemon gets the agent's connection, TCP and UDP, and the kernel's own
// word when there is none.
func TestDial(t *testing.T) {
	dir := t.TempDir()
	done := make(chan error, 1)
	ctx := t.Context()
	go func() { done <- ServeDials(ctx, dir, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	var conn net.Conn
	for range 100 { // until the socket is there
		if conn, err = Dial(t.Context(), dir, portolan.Listener{Proto: portolan.TCP, Addr: at}); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	if conn.RemoteAddr().String() != at.String() {
		t.Errorf("connected to %s", conn.RemoteAddr())
	}
	_ = conn.Close()
	_ = l.Close()
	if conn, err = Dial(t.Context(), dir, portolan.Listener{Proto: portolan.TCP, Addr: at}); err == nil {
		t.Errorf("connected to %s, which is closed", conn.RemoteAddr())
	}
	if conn, err = Dial(t.Context(), dir, portolan.Listener{Proto: portolan.UDP, Addr: at}); err != nil {
		t.Error(err)
	} else {
		_ = conn.Close()
	}
	if conn, err = Dial(t.Context(), dir, portolan.Listener{Proto: portolan.TCP, Addr: netip.MustParseAddrPort("192.0.2.1:80")}); err == nil {
		t.Errorf("connected to %s, which is no loopback", conn.RemoteAddr())
	}
}

// The cost of one look at the machine's sockets.
func BenchmarkSockets(b *testing.B) {
	for b.Loop() {
		if _, err := Sockets(); err != nil {
			b.Fatal(err)
		}
	}
}
