package guest

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

func TestRandomPorts(t *testing.T) {
	const usual = "32768\t60999\n"
	path := filepath.Join(t.TempDir(), "range")
	if err := os.WriteFile(path, []byte(usual), 0o600); err != nil {
		t.Fatal(err)
	}
	r := NewRandomPorts(system.PortRange{First: 49000, Last: 49900}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	r.path = path
	want := func(text string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("the range is %q (%v), want %q", got, err, text)
		}
	}
	r.Seen()
	want(usual)
	for range 2 { // as dockerd restarts
		r.Show()
		r.Show()
		want("49000 49900")
		r.Seen()
		r.Seen()
		want(usual)
	}
	r.Show()
	next := NewRandomPorts(r.ports, r.log) // of an agent whose predecessor died
	next.path = path
	next.Show()
	next.Seen()
	want(kernelPorts)
	if before := next.Set(system.PortRange{First: 5000, Last: 5009}); before != r.ports {
		t.Errorf("the range was %v", before)
	}
	want(kernelPorts) // until dockerd starts
	next.Show()
	want("5000 5009")
	next.Seen()
	want(kernelPorts)
}

func TestPortList(t *testing.T) {
	for want, numbers := range map[string][]uint16{
		"":                           nil,
		"5000":                       {5000, 5000},
		"5000-5002,5004,65534-65535": {65535, 5001, 5004, 5000, 5002, 65534},
	} {
		var ports []portolan.Port
		for _, n := range numbers {
			ports = append(ports, port(portolan.UDP, "127.0.0.1", n))
		}
		if got := strings.TrimSpace(portList(ports)); got != want {
			t.Errorf("portList(%v) = %q, want %q", numbers, got, want)
		}
	}
}

func port(proto portolan.Proto, addr string, number uint16) portolan.Port {
	return portolan.Port{Proto: proto, Host: netip.AddrPortFrom(netip.MustParseAddr(addr), number)}
}

// A placeholder is in the way of the engine's bind and of nobody's connection.
func TestPlaceholders(t *testing.T) {
	machine := lab.New(t).Neighbour
	machine.Run(t, "ip", "link", "add", linkName, "type", "veth", "peer", "name", "peer0")
	machine.Run(t, "ip", "link", "set", linkName, "up")
	held, log := placeholders{}, slog.New(slog.NewTextHandler(t.Output(), nil))
	ports := []portolan.Port{
		port(portolan.TCP, "127.0.0.1", 5000), port(portolan.TCP, "::", 5001), port(portolan.UDP, "0.0.0.0", 5002), port(portolan.UDP, "::1", 5003),
	}
	for _, c := range []struct {
		name string
		hold []portolan.Port
	}{{"all", ports}, {"all, again", ports}, {"one less", ports[1:]}, {"none", nil}} {
		if err := machine.Do(func() error { held.hold(c.hold, log); return nil }); err != nil {
			t.Fatal(err)
		}
		for _, p := range ports {
			var err error
			if doErr := machine.Do(func() error { err = listenAsEngine(p); return nil }); doErr != nil {
				t.Fatal(doErr)
			}
			if busy := errors.Is(err, unix.EADDRINUSE); busy != slices.Contains(c.hold, p) {
				t.Errorf("%s: bind to %s: %v", c.name, p, err)
			}
		}
		if conn, err := machine.Dial(t.Context(), "tcp", "127.0.0.1:5000"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: connect: %v, %v; want it refused", c.name, conn, err)
		}
	}
}

// listenAsEngine does what dockerd does for a published port, on all addresses.
func listenAsEngine(p portolan.Port) error {
	network, addr := p.Proto.String()+"4", netip.AddrPortFrom(netip.IPv4Unspecified(), p.Host.Port()).String()
	if p.Host.Addr().Is6() {
		network, addr = p.Proto.String()+"6", netip.AddrPortFrom(netip.IPv6Unspecified(), p.Host.Port()).String()
	}
	var c io.Closer
	var err error
	if p.Proto == portolan.TCP {
		c, err = net.Listen(network, addr)
	} else {
		c, err = net.ListenPacket(network, addr)
	}
	if err != nil {
		return err
	}
	return c.Close()
}
