package egress

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

const link4, link6 = "192.168.65.", "fdc4:f303:9324::"

// fetch opens a flow to dst and returns what the far side says.
func fetch(t *testing.T, e *Egress, dst netip.AddrPort) (string, error) {
	t.Helper()
	endpoint, err := e.OpenTCP(t.Context(), flowTo(portolan.TCP, dst))
	if err != nil {
		return "", err
	}
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer func() { _ = l.Close() }()
	client, err := net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	must(t, err)
	defer func() { _ = client.Close() }()
	conn, err := l.AcceptTCP()
	must(t, err)
	var serving sync.WaitGroup
	serving.Go(func() { endpoint.Serve(t.Context(), conn) })
	_ = client.SetDeadline(time.Now().Add(5 * time.Second))
	text, err := io.ReadAll(client)
	_ = client.Close()
	serving.Wait()
	must(t, err)
	return string(text), nil
}

func wantText(t *testing.T, e *Egress, dst netip.AddrPort, want string) {
	t.Helper()
	if got, err := fetch(t, e, dst); got != want || err != nil {
		t.Errorf("%s says %q, %v; want %q", dst, got, err, want)
	}
}

func wantRefusal(t *testing.T, e *Egress, dst netip.AddrPort, want datapath.Refusal) {
	t.Helper()
	began := time.Now()
	got, err := fetch(t, e, dst)
	if err == nil || datapath.Classify(err) != want {
		t.Errorf("%s says %q, %v; want refusal %d", dst, got, err, want)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%s: refused after %s", dst, took)
	}
}

func TestTCPDirect(t *testing.T) {
	e, _ := newEgress(t, nil)
	for _, addr := range []string{here4, here6} {
		wantText(t, e, at(addr, serveTCP(t, addr, 0, "welcome")), "welcome")
		wantRefusal(t, e, at(addr, 1), datapath.Refused)
	}
	wantRefusal(t, e, at(nowhere4, 80), datapath.HostUnreachable)
	wantRefusal(t, e, at(nowhere6, 80), datapath.HostUnreachable)
	wantRefusal(t, e, at("192.0.2.1", 80), datapath.NetUnreachable) // no default route
	wantRefusal(t, e, at("2001:db8:2::1", 80), datapath.NetUnreachable)
}

func TestTCPLink(t *testing.T) {
	e, _ := newEgress(t, nil)
	wantText(t, e, at(link4+"7", 53), "hello")
	wantText(t, e, at(link6+"7", 53), "hello")
	for _, port := range []uint16{53, 80} {
		serveTCP(t, "127.0.0.1", port, "never")
		serveTCP(t, here4, port, "never")
		wantRefusal(t, e, at(link4+"1", port), datapath.Refused)
		wantRefusal(t, e, at(link6+"1", port), datapath.Refused)
		wantRefusal(t, e, at(link4+"3", port), datapath.HostUnreachable)
		wantRefusal(t, e, at("127.0.0.1", port), datapath.NetUnreachable)
		wantRefusal(t, e, at("0.0.0.0", port), datapath.NetUnreachable)
		wantRefusal(t, e, at("::ffff:127.0.0.1", port), datapath.NetUnreachable)
	}
}

func TestTCPHost(t *testing.T) {
	e, _ := newEgress(t, nil)
	both := serveTCP(t, "127.0.0.1", 0, "four")
	serveTCP(t, "::1", both, "six")
	four := serveTCP(t, "127.0.0.1", 0, "four")
	six := serveTCP(t, "::1", 0, "six")
	for six == both || six == four { // the kernel's choice knows one family only
		six = serveTCP(t, "::1", 0, "six")
	}
	const elsewhere = 9
	serveTCP(t, here4, elsewhere, "elsewhere")
	for _, name := range []string{link4 + "254", link6 + "254"} {
		wantText(t, e, at(name, both), "four")
		wantText(t, e, at(name, four), "four")
		wantText(t, e, at(name, six), "six")
		wantRefusal(t, e, at(name, elsewhere), datapath.Refused)
	}
}

func TestHostMayBeForbidden(t *testing.T) {
	var forbidden uint16
	e, machine := newEgress(t, func(c *Config) {
		c.AllowHost = func(flow portolan.Flow) error {
			if flow.Dst.Port() == forbidden {
				return syscall.EACCES
			}
			return nil
		}
	})
	forbidden = serveTCP(t, "127.0.0.1", 0, "never")
	serveUDP(t, "127.0.0.1", forbidden, "never")
	wantText(t, e, at(link4+"254", serveTCP(t, "127.0.0.1", 0, "allowed")), "allowed")
	wantRefusal(t, e, at(link4+"254", forbidden), datapath.Prohibited)
	e.HandleUDP(flowTo(portolan.UDP, at(link4+"254", forbidden)), []byte("x"))
	if got := machine.next(t); datapath.Classify(got.reason) != datapath.Prohibited || got.reason == nil {
		t.Errorf("the machine was sent %q, %v", got.payload, got.reason)
	}
}

// blackHole is a Dialer that nobody answers.
type blackHole struct{ dialling chan struct{} }

func (b blackHole) DialTCP(ctx context.Context, _ netip.AddrPort) (datapath.Conn, error) {
	b.dialling <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// One container's black-holed dials end in silence at their bound, and another
// container dials as before.
func TestTCPBlackHoleStopsNobodyElse(t *testing.T) {
	hole := blackHole{make(chan struct{})}
	e, _ := newEgress(t, func(c *Config) { c.Dialer = hole })
	ctx, cancel := context.WithCancel(t.Context())
	var dials sync.WaitGroup
	defer dials.Wait()
	defer cancel()
	open := func(flow portolan.Flow) {
		dials.Go(func() {
			if _, err := e.OpenTCP(ctx, flow); datapath.Classify(err) != datapath.Silent {
				t.Errorf("%s: %v, want silence", flow, err)
			}
		})
		select {
		case <-hole.dialling:
		case <-time.After(5 * time.Second):
			t.Fatalf("%s is not dialled", flow)
		}
	}
	flow := flowTo(portolan.TCP, at(here4, 80))
	for range dialBounds.Source {
		open(flow)
	}
	if _, err := e.OpenTCP(ctx, flow); err == nil || datapath.Classify(err) != datapath.Silent {
		t.Errorf("one more: %v, want silence", err)
	}
	flow.Src = netip.MustParseAddrPort("172.17.0.3:40000")
	open(flow)
	cancel()
	dials.Wait()
	if n := e.dials.Held(); n != 0 {
		t.Errorf("%d dials are still counted", n)
	}
}

func TestEndpointCloseResetsTheFarSide(t *testing.T) {
	e, _ := newEgress(t, nil)
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at(here4, 0)))
	must(t, err)
	defer func() { _ = l.Close() }()
	endpoint, err := e.OpenTCP(t.Context(), flowTo(portolan.TCP, l.Addr().(*net.TCPAddr).AddrPort()))
	must(t, err)
	conn, err := l.AcceptTCP()
	must(t, err)
	defer func() { _ = conn.Close() }()
	must(t, endpoint.Close())
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || datapath.Classify(err) != datapath.Refused {
		t.Errorf("read: %v, want a reset", err)
	}
}
