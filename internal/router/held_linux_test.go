package router

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/scarce"
	"github.com/portolan-net/portolan/internal/socket"
)

// newTable is a heldTable that counts what it writes.
func newTable(handler datapath.Handler) (t *heldTable, writes, refusals *int) {
	writes, refusals = new(int), new(int)
	t = newHeldTable(nil, scarce.NewLimit(scarce.Bounds{}, nil))
	t.handler, t.log = handler, slog.New(slog.DiscardHandler)
	t.write = func([]byte) { *writes++ }
	t.refuse = func([]byte, error) { *refusals++ }
	return t, writes, refusals
}

func flowFrom(src netip.Addr, port uint16) portolan.Flow {
	return portolan.Flow{Proto: portolan.TCP, Src: netip.AddrPortFrom(src, port), Dst: netip.AddrPortFrom(server4, 80)}
}

// TestMachineNeverFinishesHandshake: the endpoint is given back after acceptLimit.
func TestMachineNeverFinishesHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := &endpoint{}
		table, writes, _ := newTable(&fakeHandler{open: func(context.Context, portolan.Flow) (datapath.Endpoint, error) {
			return end, nil
		}})
		flow := flowFrom(container4, 1)
		table.syn(t.Context(), flow, 7, []byte("syn"), time.Now())
		synctest.Wait()
		table.syn(t.Context(), flow, 7, []byte("syn"), time.Now()) // repeated
		if *writes != 2 {
			t.Errorf("SYN was written %d times, want once for each that came", *writes)
		}
		time.Sleep(acceptLimit - time.Second)
		if end.closed.Load() {
			t.Error("endpoint closed too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !end.closed.Load() || len(table.held) != 0 || table.places.Held() != 0 {
			t.Errorf("endpoint closed: %v; held: %d", end.closed.Load(), len(table.held))
		}
		table.close()
	})
}

// TestPatienceFollowsRetransmissions: 1, 1, 1, 1, 1, 2, 4, 8 s apart, as Linux does.
func TestPatienceFollowsRetransmissions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Time, 1)
		table, _, refusals := newTable(&fakeHandler{open: func(ctx context.Context, _ portolan.Flow) (datapath.Endpoint, error) {
			<-ctx.Done()
			ended <- time.Now()
			return nil, ctx.Err()
		}})
		flow := flowFrom(container4, 1)
		table.syn(t.Context(), flow, 7, []byte("syn"), time.Now())
		for _, gap := range []time.Duration{1, 1, 1, 1, 1, 2, 4, 8} {
			time.Sleep(gap * time.Second)
			table.syn(t.Context(), flow, 7, []byte("syn"), time.Now())
		}
		last := time.Now()
		synctest.Wait()
		if len(ended) > 0 {
			t.Error("given up while the machine still tried")
		}
		if wait := (<-ended).Sub(last); wait < 16*time.Second || wait > 30*time.Second {
			t.Errorf("given up %v after the last SYN", wait)
		}
		if *refusals != 0 {
			t.Error("a machine that gave up was answered")
		}
		table.close()
	})
}

func TestHeldIsBounded(t *testing.T) {
	opened := make(chan struct{}, 2*maxHeld)
	table, _, _ := newTable(&fakeHandler{open: func(ctx context.Context, _ portolan.Flow) (datapath.Endpoint, error) {
		opened <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	table.places = scarce.NewLimit(scarce.Bounds{All: maxHeldPerNetwork * 3 / 2, Network: maxHeldPerNetwork, Source: maxHeldPerSource}, testNetworks())
	for port := range uint16(maxHeldPerSource + 10) {
		table.syn(t.Context(), flowFrom(container4, port), 1, []byte("syn"), time.Now())
	}
	if n := len(table.held); n != maxHeldPerSource {
		t.Errorf("%d held from one source, want %d", n, maxHeldPerSource)
	}
	flood := func(src netip.Addr) {
		for range 10 {
			src = src.Next()
			for port := range uint16(maxHeldPerSource) {
				table.syn(t.Context(), flowFrom(src, port), 1, []byte("syn"), time.Now())
			}
		}
	}
	flood(container4)
	if n := len(table.held); n != maxHeldPerNetwork {
		t.Errorf("%d held from one network, want %d", n, maxHeldPerNetwork)
	}
	flood(netip.MustParseAddr("172.31.0.1"))
	const all = maxHeldPerNetwork * 3 / 2
	if n := len(table.held); n != all {
		t.Errorf("%d held in all, want %d", n, all)
	}
	table.close()
	if n := len(opened); n != all {
		t.Errorf("OpenTCP called %d times, want %d", n, all)
	}
	if table.places.Held() != 0 || table.flows.Held() != 0 {
		t.Errorf("%d places and %d flows are still counted", table.places.Held(), table.flows.Held())
	}
}

// testNetworks are the container's network and one more.
func testNetworks() *scarce.Networks {
	n := &scarce.Networks{}
	n.Set([]netip.Prefix{netip.PrefixFrom(container4, 24).Masked(), netip.MustParsePrefix("172.31.0.0/16")})
	return n
}

// A network at its part of the descriptors is reset; another one is let in, and
// the first again when its flows end.
func TestFlowsOfANetworkAreBounded(t *testing.T) {
	table, _, refusals := newTable(&fakeHandler{open: func(ctx context.Context, _ portolan.Flow) (datapath.Endpoint, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	const many = 300
	table.flows = scarce.NewLimit(scarce.Bounds{All: many, Network: many / 3 * 2}, testNetworks())
	open := func(src netip.Addr, port uint16) bool {
		before := *refusals
		table.syn(t.Context(), flowFrom(src, port), 1, []byte("syn"), time.Now())
		return *refusals == before
	}
	other := netip.MustParseAddr("172.31.0.1")
	granted := 0
	for port := range uint16(many) {
		if open(container4, port) {
			granted++
		}
	}
	if want := table.flows.Held(); granted == 0 || granted == many || granted != want {
		t.Errorf("%d connections of %d are let in, %d counted", granted, many, want)
	}
	if !open(other, 1) {
		t.Error("the other network is refused")
	}
	table.mu.Lock()
	for _, h := range table.held {
		table.dropLocked(h)
	}
	table.mu.Unlock()
	if !open(container4, 1) {
		t.Error("the first network is still refused")
	}
	table.close()
}

// TestStrangerIsReset: a connection that a daemon before had let in.
func TestStrangerIsReset(t *testing.T) {
	table, _, _ := newTable(&fakeHandler{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	fd, err := socket.Duplicate(ln.(*net.TCPListener))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	conn, err := socket.Accept(fd)
	if err != nil {
		t.Fatal(err)
	}
	table.accepted(t.Context(), conn)
	if _, err := client.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("read: %v, want a reset", err)
	}
	table.close()
}

func isReset(err error) bool {
	op, ok := err.(*net.OpError)
	if !ok {
		return false
	}
	sys, ok := op.Err.(*os.SyscallError)
	return ok && sys.Err == unix.ECONNRESET
}

// TestNoDescriptorLeaks runs a datapath with traffic, twice, and compares.
func TestNoDescriptorLeaks(t *testing.T) {
	l := newLab(t)
	ln := l.listen(t, container4, 8080)
	use := func() {
		d, stop := l.attachUntil(t, &fakeHandler{open: openEcho})
		defer stop()
		conn, err := l.dial("tcp", netip.AddrPortFrom(server4, 80), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, conn)
		_ = conn.Close()
		inbound, err := d.DialTCP(t.Context(), client4, netip.AddrPortFrom(container4, 8080))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(got, "x")
		_, _ = got.Close(), inbound.Close()
		udp, err := d.DialUDP(t.Context(), netip.AddrPortFrom(client4, 99), netip.AddrPortFrom(container4, 99))
		if err != nil {
			t.Fatal(err)
		}
		_ = udp.Close()
		if err := d.ReplyUDP(portolan.Flow{Src: netip.AddrPortFrom(container4, 9), Dst: netip.AddrPortFrom(server4, 9)}, nil); err != nil {
			t.Error(err)
		}
	}
	use()
	here, there := openFiles(t, os.Getpid()), openFiles(t, l.helper.pid())
	use()
	eventually(t, "descriptors are closed", func() bool {
		runtime.GC() // closes the pipes that io.Copy keeps for the next splice
		return openFiles(t, os.Getpid()) <= here && openFiles(t, l.helper.pid()) <= there
	})
}
