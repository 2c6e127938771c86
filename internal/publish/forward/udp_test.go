//go:build linux

package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/scarce"
)

// echoUDP answers "to CLIENTADDRESS: PAYLOAD" for small datagrams, the same bytes for large.
func echoUDP(t *testing.T, network, address string) *net.UDPConn {
	t.Helper()
	c := listenUDP(t, network, address)
	_ = c.SetReadBuffer(receiveBuffer)
	go func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteToUDPAddrPort(buf[:n], from)
			}
		}
	}()
	return c
}

type udpCase struct {
	*UDP
	dials atomic.Int32
}

// startUDP forwards what arrives at address to dest.
func startUDP(t *testing.T, network, address, dest string, tune func(*UDP)) *udpCase {
	t.Helper()
	u := &udpCase{}
	u.UDP = &UDP{Conn: listenUDP(t, network, address), Log: logger(t),
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			u.dials.Add(1)
			var d net.Dialer
			return d.DialContext(ctx, "udp", dest)
		}}
	if tune != nil {
		tune(u.UDP)
	}
	serve(t, u.Serve)
	return u
}

func (u *udpCase) size() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.sessions)
}

func dialUDP(t *testing.T, local, remote string) *net.UDPConn {
	t.Helper()
	var d net.Dialer
	if local != "" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local))
	}
	c, err := d.DialContext(t.Context(), "udp", remote)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(limit))
	return c.(*net.UDPConn)
}

func exchange(t *testing.T, c *net.UDPConn, payload []byte) {
	t.Helper()
	if _, err := c.Write(payload); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, maxDatagram)
	n, err := c.Read(buf)
	if err != nil || !bytes.Equal(buf[:n], payload) {
		t.Fatalf("echo of %d bytes: %d bytes came, %v", len(payload), n, err)
	}
}

func port(t *testing.T, c *net.UDPConn) uint16 { t.Helper(); return addrPort(t, c.LocalAddr()).Port() }

func TestUDPThousandClients(t *testing.T) {
	checkDescriptors(t)
	dest := echoUDP(t, "udp4", "127.0.0.1:0")
	u := startUDP(t, "udp4", "127.0.0.1:0", dest.LocalAddr().String(), nil)
	const clients = 1000
	conns := make([]*net.UDPConn, clients)
	for i := range conns {
		conns[i] = dialUDP(t, "", u.Conn.LocalAddr().String())
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 100) // what socket buffers hold for sure
	for i, c := range conns {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			for round := range 3 {
				payload := fmt.Appendf(nil, "client %d round %d", i, round)
				_, _ = c.Write(payload)
				got := make([]byte, 100)
				n, err := c.Read(got)
				if err != nil || !bytes.Equal(got[:n], payload) {
					t.Errorf("client %d got %q, %v", i, got[:n], err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := u.size(); n != clients {
		t.Errorf("%d sessions, want %d", n, clients)
	}
}

func TestUDPSizesBothFamilies(t *testing.T) {
	checkDescriptors(t)
	for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
		for _, size := range []int{0, 1, 1400, 9000, 65507} {
			t.Run(fmt.Sprintf("%s/%d", host, size), func(t *testing.T) {
				dest := echoUDP(t, "udp", host)
				u := startUDP(t, "udp", host, dest.LocalAddr().String(), nil)
				exchange(t, dialUDP(t, "", u.Conn.LocalAddr().String()), bytes.Repeat([]byte{7}, size))
			})
		}
	}
}

// A connected client only hears the address that it spoke to.
func TestUDPRepliesComeFromTheAddressAsked(t *testing.T) {
	checkDescriptors(t)
	dest := echoUDP(t, "udp4", "127.0.0.1:0")
	u := startUDP(t, "udp4", "0.0.0.0:0", dest.LocalAddr().String(), nil)
	p := port(t, u.Conn)
	for _, asked := range []string{"127.0.0.1", "127.0.0.2", "127.9.8.7"} {
		c := dialUDP(t, "", fmt.Sprintf("%s:%d", asked, p))
		exchange(t, c, []byte("to "+asked))
	}
	// One client port that speaks to two addresses has two sessions.
	first := dialUDP(t, "127.0.0.1:0", fmt.Sprintf("127.0.0.3:%d", p))
	exchange(t, first, []byte("a"))
	local := first.LocalAddr().String()
	_ = first.Close()
	exchange(t, dialUDP(t, local, fmt.Sprintf("127.0.0.4:%d", p)), []byte("b"))
	if u.size() != 5 {
		t.Errorf("%d sessions, want 5", u.size())
	}
}

func TestUDPRecoversFromRefusal(t *testing.T) {
	checkDescriptors(t)
	dest := listenUDP(t, "udp4", "127.0.0.1:0")
	address := dest.LocalAddr().String()
	_ = dest.Close()
	u := startUDP(t, "udp4", "127.0.0.1:0", address, nil)
	c := dialUDP(t, "", u.Conn.LocalAddr().String())
	for range 5 {
		_, _ = c.Write([]byte("nobody hears this"))
		time.Sleep(10 * time.Millisecond)
	}
	if u.size() != 1 {
		t.Fatalf("%d sessions after refusals, want the one", u.size())
	}
	echoUDP(t, "udp4", address)
	exchange(t, c, []byte("now"))
	if n := u.dials.Load(); n != 1 {
		t.Errorf("%d dials, want 1", n)
	}
}

func TestUDPIdleSessionsEnd(t *testing.T) {
	checkDescriptors(t)
	dest := echoUDP(t, "udp4", "127.0.0.1:0")
	const idle = 200 * time.Millisecond
	u := startUDP(t, "udp4", "127.0.0.1:0", dest.LocalAddr().String(), func(u *UDP) { u.Idle = idle })
	c := dialUDP(t, "", u.Conn.LocalAddr().String())
	for end := time.Now().Add(3 * idle); time.Now().Before(end); time.Sleep(idle / 10) {
		exchange(t, c, []byte("busy"))
	}
	if n := u.dials.Load(); n != 1 {
		t.Errorf("%d dials while busy, want 1", n)
	}
	for end := time.Now().Add(5 * idle); u.size() > 0; time.Sleep(idle / 10) {
		if time.Now().After(end) {
			t.Fatalf("the session stays after %v", 5*idle)
		}
	}
	exchange(t, c, []byte("again"))
}

func TestUDPOldestGoesAtTheLimit(t *testing.T) {
	checkDescriptors(t)
	dest := echoUDP(t, "udp4", "127.0.0.1:0")
	u := startUDP(t, "udp4", "127.0.0.1:0", dest.LocalAddr().String(), func(u *UDP) { u.MaxSessions = 3 })
	var clients []*net.UDPConn
	for range 3 {
		c := dialUDP(t, "", u.Conn.LocalAddr().String())
		exchange(t, c, []byte("x"))
		clients = append(clients, c)
	}
	exchange(t, clients[0], []byte("x")) // now clients[1] is the oldest
	exchange(t, dialUDP(t, "", u.Conn.LocalAddr().String()), []byte("x"))
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.sessions) != 3 {
		t.Errorf("%d sessions, want 3", len(u.sessions))
	}
	for i, want := range []bool{true, false, true} {
		key := sessionKey{client: addrPort(t, clients[i].LocalAddr()), local: netip.MustParseAddr("127.0.0.1")}
		if _, ok := u.sessions[key]; ok != want {
			t.Errorf("client %d has a session: %v, want %v", i, ok, want)
		}
	}
}

// A dial that hangs holds up only its own client, and loses nothing but the excess.
func TestUDPSlowDialQueues(t *testing.T) {
	checkDescriptors(t)
	dest := echoUDP(t, "udp4", "127.0.0.1:0")
	release := make(chan struct{})
	releaseOnce := sync.OnceFunc(func() { close(release) })
	var held atomic.Pointer[netip.AddrPort]
	u := startUDP(t, "udp4", "127.0.0.1:0", dest.LocalAddr().String(), func(u *UDP) {
		dial := u.Dial
		u.Dial = func(ctx context.Context, client netip.AddrPort) (net.Conn, error) {
			if client == *held.Load() {
				select {
				case <-release:
				case <-ctx.Done():
				}
			}
			return dial(ctx, client)
		}
	})
	slow := dialUDP(t, "", u.Conn.LocalAddr().String())
	from := addrPort(t, slow.LocalAddr())
	held.Store(&from)
	for i := range queueLength + 5 {
		_, _ = slow.Write([]byte{byte(i)})
	}
	exchange(t, dialUDP(t, "", u.Conn.LocalAddr().String()), []byte("quick"))
	releaseOnce()
	for i := range queueLength {
		buf := make([]byte, 10)
		n, err := slow.Read(buf)
		if err != nil || n != 1 || buf[0] != byte(i) {
			t.Fatalf("datagram %d = %v, %v", i, buf[:n], err)
		}
	}
}

func TestUDPResetDialsAnew(t *testing.T) {
	checkDescriptors(t)
	dest := echoUDP(t, "udp4", "127.0.0.1:0")
	u := startUDP(t, "udp4", "127.0.0.1:0", dest.LocalAddr().String(), nil)
	c := dialUDP(t, "", u.Conn.LocalAddr().String())
	exchange(t, c, []byte("a"))
	u.Reset()
	exchange(t, c, []byte("b"))
	if n := u.dials.Load(); n != 2 {
		t.Errorf("%d dials, want 2", n)
	}
}

// Datagrams that wait together are told apart by client and by the address that was
// asked, and stay in order.
func TestUDPBatches(t *testing.T) {
	checkDescriptors(t)
	dest := echoUDP(t, "udp4", "127.0.0.1:0")
	u := startUDP(t, "udp4", "0.0.0.0:0", dest.LocalAddr().String(), nil)
	p := port(t, u.Conn)
	var clients []*net.UDPConn
	for i := range 3 {
		clients = append(clients, dialUDP(t, "", fmt.Sprintf("127.0.0.%d:%d", 1+i%2, p)))
		exchange(t, clients[i], []byte("begin"))
	}
	const burst = 40
	for i := range burst {
		for c, conn := range clients {
			_, _ = conn.Write(bytes.Repeat([]byte{byte(c), byte(i)}, 1+i))
		}
	}
	for c, conn := range clients {
		for i := range burst {
			got := make([]byte, 200)
			n, err := conn.Read(got)
			if want := bytes.Repeat([]byte{byte(c), byte(i)}, 1+i); err != nil || !bytes.Equal(got[:n], want) {
				t.Fatalf("client %d gets %v as datagram %d (%v)", c, got[:n], i, err)
			}
		}
	}
}

// A client that holds all it may gets no more and takes nothing from others; when
// all places are taken, the oldest session of the socket goes; all come back.
func TestUDPPlaces(t *testing.T) {
	checkDescriptors(t)
	dest := echoUDP(t, "udp4", "127.0.0.1:0")
	places := scarce.NewLimit(scarce.Bounds{All: 3, Source: 2}, nil)
	u := startUDP(t, "udp4", "0.0.0.0:0", dest.LocalAddr().String(), func(u *UDP) { u.Places = places })
	to := fmt.Sprintf("127.0.0.1:%d", port(t, u.Conn))
	greedy := []*net.UDPConn{dialUDP(t, "127.0.0.2:0", to), dialUDP(t, "127.0.0.2:0", to)}
	for _, c := range greedy {
		exchange(t, c, []byte("x"))
	}
	beyond := dialUDP(t, "127.0.0.2:0", to)
	_, _ = beyond.Write([]byte("x"))
	_ = beyond.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := beyond.Read(make([]byte, 10)); err == nil {
		t.Errorf("a third session of one client answers with %d bytes", n)
	}
	exchange(t, dialUDP(t, "127.0.0.3:0", to), []byte("x"))
	exchange(t, dialUDP(t, "127.0.0.4:0", to), []byte("x"))
	if n := places.Held(); n != 3 || u.size() != 3 {
		t.Errorf("%d places are taken by %d sessions, want 3", n, u.size())
	}
	exchange(t, greedy[1], []byte("x"))
	if n := u.dials.Load(); n != 4 {
		t.Errorf("%d dials, want one for each session: the first client's second is still there", n)
	}
	u.Reset()
	if n := places.Held(); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
}
