package relay

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
)

// pair returns the two ends of a TCP connection over loopback.
func pair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	client, err = net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	if server, err = l.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// wrapped hides that a connection is a TCP socket, so it can't be spliced.
type wrapped struct{ datapath.Conn }

func (w wrapped) SetLinger(sec int) error { return w.Conn.(*net.TCPConn).SetLinger(sec) }

func plain(c *net.TCPConn) datapath.Conn  { return c }
func hidden(c *net.TCPConn) datapath.Conn { return wrapped{c} }

// relayedFlow is a connection from left to right.
type relayedFlow struct {
	left, right *net.TCPConn
	cancel      context.CancelFunc
	ended       chan struct{}
	stats       Stats // once ended
}

func relayed(t testing.TB, kind func(*net.TCPConn) datapath.Conn) *relayedFlow {
	t.Helper()
	left, a := pair(t)
	b, right := pair(t)
	return relayedBetween(t, left, a, b, right, kind)
}

// relayedBetween relays between a and b.
func relayedBetween(t testing.TB, left, a, b, right *net.TCPConn, kind func(*net.TCPConn) datapath.Conn) *relayedFlow {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &relayedFlow{left: left, right: right, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(f.ended)
		f.stats = TCP(ctx, kind(a), kind(b))
	}()
	t.Cleanup(func() {
		_ = left.Close()
		_ = right.Close()
		cancel()
		<-f.ended
	})
	return f
}

// await fails unless the relay has ended by itself.
func (f *relayedFlow) await(t testing.TB) {
	t.Helper()
	select {
	case <-f.ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the relay has not ended after 5 s")
	}
}

// reset closes conn with an RST.
func reset(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	if err := errors.Join(conn.SetLinger(0), conn.Close()); err != nil {
		t.Fatal(err)
	}
}

// wantReset fails unless conn gets an RST; what was under way may arrive first.
func wantReset(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read %d bytes, then: %v; want a reset", n, err)
	}
}

// wantResetAfterFIN is wantReset for an end that has seen a FIN: Linux tells it
// only when it writes.
func wantResetAfterFIN(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	if _, err := conn.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("write: %v; want a broken pipe", err)
	}
}

// random writes n reproducible bytes to w and into sum.
func random(w io.Writer, n int64, seed byte, sum hash.Hash) error {
	source := rand.NewChaCha8([32]byte{seed})
	_, err := io.CopyN(struct{ io.Writer }{io.MultiWriter(w, sum)}, source, n)
	return err
}

// exchange sends n bytes each way, closes each way after them, and compares.
func exchange(t *testing.T, f *relayedFlow, toRight, toLeft int64) {
	t.Helper()
	var work sync.WaitGroup
	carry := func(from, to *net.TCPConn, n int64, seed byte) {
		sent, got := sha256.New(), sha256.New()
		work.Go(func() {
			if err := errors.Join(random(from, n, seed, sent), from.CloseWrite()); err != nil {
				t.Errorf("send: %v", err)
			}
		})
		work.Go(func() {
			if m, err := io.Copy(got, to); err != nil || m != n {
				t.Errorf("received %d bytes, %v; want %d", m, err, n)
			}
		})
		t.Cleanup(func() {
			if string(sent.Sum(nil)) != string(got.Sum(nil)) {
				t.Errorf("SHA-256 differs after %d bytes", n)
			}
		})
	}
	carry(f.left, f.right, toRight, 1)
	carry(f.right, f.left, toLeft, 2)
	work.Wait()
	f.await(t)
	if want := (Stats{AToB: toRight, BToA: toLeft}); f.stats != want {
		t.Errorf("stats = %+v, want %+v", f.stats, want)
	}
}

func TestTCPCarriesAStreamUnharmed(t *testing.T) {
	noLeaks(t)
	size := int64(1_000_000_000)
	if testing.Short() {
		size = 200_000_000
	}
	t.Run("spliced", func(t *testing.T) { exchange(t, relayed(t, plain), size, 1_000_000) })
	t.Run("buffered", func(t *testing.T) { exchange(t, relayed(t, hidden), 1_000_000, size/5) })
	t.Run("no pipe to be had", func(t *testing.T) {
		takeAllPipes(t)
		exchange(t, relayed(t, plain), size/5, 1_000_000)
	})
}

// takeAllPipes lends every pipe to the test.
func takeAllPipes(t *testing.T) {
	t.Helper()
	for p := pipes.get(); p != nil; p = pipes.get() {
		t.Cleanup(func() { pipes.put(p) })
	}
	if lentPipes() != maxPipes {
		t.Fatalf("%d pipes are lent, want %d", lentPipes(), maxPipes)
	}
}

func TestTCPHalfClose(t *testing.T) {
	for name, kind := range map[string]func(*net.TCPConn) datapath.Conn{"spliced": plain, "buffered": hidden} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			f := relayed(t, kind)
			ask(t, f.left, f.right)
			f.await(t)
			f = relayed(t, kind)
			ask(t, f.right, f.left)
			f.await(t)
		})
	}
}

// ask sends a question and a FIN, then the answer the other way.
func ask(t *testing.T, from, to *net.TCPConn) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	_, _ = from.SetDeadline(deadline), to.SetDeadline(deadline)
	if _, err := from.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := from.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(to); string(got) != "question" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
	if _, err := to.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(from); string(got) != "answer" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestTCPManyStreams(t *testing.T) {
	noLeaks(t)
	var group sync.WaitGroup
	defer group.Wait()
	for i := range 100 {
		f := relayed(t, plain)
		toRight, toLeft := rand.Int64N(3_000_000), rand.Int64N(1<<(1+i%20))
		group.Go(func() { exchange(t, f, toRight, toLeft) })
	}
}

func TestTCPContextEndsBothSides(t *testing.T) {
	noLeaks(t)
	f := relayed(t, plain)
	f.cancel()
	f.await(t)
	wantReset(t, f.left)
	wantReset(t, f.right)
}

// Urgent data must neither stop a flow nor get lost.
func TestTCPUrgentData(t *testing.T) {
	noLeaks(t)
	f := relayed(t, plain)
	raw, err := f.left.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.left.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.right.Read(make([]byte, 1)); err != nil { // the relay has begun
		t.Fatal(err)
	}
	const rounds, size = 20, 100 << 10
	go func() {
		for range rounds {
			_ = raw.Control(func(fd uintptr) { _ = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) })
			_, _ = f.left.Write(make([]byte, size))
		}
		_ = f.left.CloseWrite()
	}()
	_ = f.right.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, err := io.Copy(io.Discard, f.right); got != rounds*(size+1) || err != nil {
		t.Errorf("%d bytes arrived, %v; want %d", got, err, rounds*(size+1))
	}
}
