package egress

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/relay"
)

// outcome is what StartTCP tells.
type outcome struct {
	endpoint datapath.Endpoint
	err      error
}

// start calls StartTCP for a port of the host's loopback.
func start(ctx context.Context, e *Egress, port uint16) <-chan outcome {
	told := make(chan outcome, 2)
	e.StartTCP(ctx, flowTo(portolan.TCP, at(link4+"254", port)), func(endpoint datapath.Endpoint, err error) {
		told <- outcome{endpoint, err}
	})
	return told
}

func await(t *testing.T, told <-chan outcome) outcome {
	t.Helper()
	select {
	case o := <-told:
		return o
	case <-time.After(5 * time.Second):
		t.Fatal("nothing is told for 5 s")
		return outcome{}
	}
}

func TestStartTCP(t *testing.T) {
	e, _ := newLocalEgress(t, nil)
	four := serveTCP(t, "127.0.0.1", 0, "four")
	told := start(t.Context(), e, four)
	if len(told) != 1 {
		t.Error("a server on this computer had to be waited for")
	}
	o := await(t, told)
	must(t, o.err)
	must(t, o.endpoint.Close())

	six := serveTCP(t, "::1", 0, "six")
	for free := false; !free; { // the kernel's choice knows one family only
		l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at("127.0.0.1", six)))
		if free = err == nil; free {
			_ = l.Close()
		} else {
			six = serveTCP(t, "::1", 0, "six")
		}
	}
	o = await(t, start(t.Context(), e, six))
	must(t, o.err)
	must(t, o.endpoint.Close())

	if o := await(t, start(t.Context(), e, 1)); o.err == nil || datapath.Classify(o.err) != datapath.Refused {
		t.Errorf("a closed port: %v, %v", o.endpoint, o.err)
	}
	if n := e.dials.Held(); n != 0 {
		t.Errorf("%d dials are still counted", n)
	}
}

// silent is a port of 127.0.0.1 that says nothing once it has taken one connection;
// leave makes it one where nobody listens.
func silent(t *testing.T) (port uint16, leave func()) {
	t.Helper()
	full, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	leave = sync.OnceFunc(func() { _ = unix.Close(full) })
	t.Cleanup(leave)
	must(t, unix.Bind(full, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, unix.Listen(full, 0))
	name, err := unix.Getsockname(full)
	must(t, err)
	return uint16(name.(*unix.SockaddrInet4).Port), leave
}

// A dial from an address that the host loses begins anew, and ends as it then would.
func TestDialOfLostAddress(t *testing.T) {
	e, _ := newLocalEgress(t, nil)
	port, leave := silent(t)
	o := await(t, start(t.Context(), e, port)) // fills the queue
	must(t, o.err)
	told := start(t.Context(), e, port)
	own := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for began := time.Now(); relay.ResetFrom(own) == 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > 5*time.Second {
			t.Fatal("no dial from the address is under way")
		}
	}
	select {
	case o := <-told:
		t.Fatalf("nobody has answered the new dial: %v, %v", o.endpoint, o.err)
	case <-time.After(50 * time.Millisecond):
	}
	leave()
	_ = o.endpoint.Close()
	for relay.ResetFrom(own) == 0 && len(told) == 0 {
		time.Sleep(time.Millisecond)
	}
	if o := await(t, told); o.err == nil || datapath.Classify(o.err) != datapath.Refused {
		t.Errorf("%v, %v; want the refusal of the new dial", o.endpoint, o.err)
	}
	if n := relay.ResetFrom(own); n != 0 {
		t.Errorf("%d dials are still known", n)
	}
}

// Who does not answer is waited for elsewhere, until the machine has had enough.
func TestStartTCPDoesNotWait(t *testing.T) {
	e, _ := newLocalEgress(t, nil)
	port, _ := silent(t)
	o := await(t, start(t.Context(), e, port)) // fills the queue
	must(t, o.err)
	defer func() { _ = o.endpoint.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	told := start(ctx, e, port)
	if len(told) != 0 || e.dials.Held() != 1 {
		t.Errorf("%d outcomes, %d dials under way; want none and one", len(told), e.dials.Held())
	}
	cancel()
	if o := await(t, told); o.err == nil || datapath.Classify(o.err) != datapath.Silent {
		t.Errorf("given up: %v, %v; want silence", o.endpoint, o.err)
	}
	if n := e.dials.Held(); n != 0 {
		t.Errorf("%d dials are still counted", n)
	}
}
