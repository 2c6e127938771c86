package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
)

// ender is what both net.TCPConn and net.UnixConn are.
type ender interface {
	datapath.Conn
	SetDeadline(time.Time) error
}

// dialler makes pairs of connected sockets from one listener.
type dialler struct {
	mu       sync.Mutex // a pair is of one dial
	listener net.Listener
}

func listenOn(t *testing.T, network string) *dialler {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "socket")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &dialler{listener: l}
}

func (d *dialler) pair() (near, far ender, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	client, err := net.Dial(d.listener.Addr().Network(), d.listener.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	server, err := d.listener.Accept()
	if err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return client.(ender), server.(ender), nil
}

// content is what every flow sends: a byte in a wrong place shows.
var content = func() []byte {
	data := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	return data
}()

// sizes lie around what a worker treats differently.
var sizes = []int{0, 1, 1000, scratchSize - 1, scratchSize, scratchSize + 1, spliceSize - 1, spliceSize, spliceSize + 1, 2*spliceSize + scratchSize, len(content)}

// way is one direction of a flow in the test.
type way struct {
	size  int
	piece int           // of one write
	pause time.Duration // between reads
}

func randomWay() way {
	w := way{size: sizes[rand.IntN(len(sizes))], piece: 1 << (8 + rand.IntN(12))}
	if rand.IntN(8) == 0 {
		w.pause = blockedAfter * 2 // the pipe is taken from it
	}
	return w
}

// run sends and half-closes, and receives to the end.
func (w way) run(from, to ender) error {
	var sent error
	var sending sync.WaitGroup
	sending.Go(func() {
		for rest := content[:w.size]; len(rest) > 0 && sent == nil; {
			n := min(w.piece, len(rest))
			_, sent = from.Write(rest[:n])
			rest = rest[n:]
		}
		sent = errors.Join(sent, from.CloseWrite())
	})
	got, err := w.receive(to)
	sending.Wait()
	if err := errors.Join(sent, err); err != nil {
		return fmt.Errorf("%+v: %d bytes arrived: %w", w, len(got), err)
	}
	if !bytes.Equal(got, content[:w.size]) {
		return fmt.Errorf("%+v: %d other bytes arrived", w, len(got))
	}
	return nil
}

func (w way) receive(to ender) ([]byte, error) {
	if w.pause > 0 {
		time.Sleep(w.pause)
	}
	return io.ReadAll(to)
}

// stressed is one flow from near to far.
func stressed(t *testing.T, left, right *dialler) error {
	near, a, err := left.pair()
	if err != nil {
		return err
	}
	b, far, err := right.pair()
	if err != nil {
		return err
	}
	ended := make(chan Stats, 1)
	go func() { ended <- TCP(t.Context(), a, b) }()
	deadline := time.Now().Add(20 * time.Second)
	_, _ = near.SetDeadline(deadline), far.SetDeadline(deadline)
	defer near.Close()
	defer far.Close()
	if tcp, ok := near.(*net.TCPConn); ok && rand.IntN(4) == 0 {
		err = cutOff(tcp, far)
	} else {
		err = bothWays(near, far)
	}
	if err != nil {
		return err
	}
	select {
	case <-ended:
		return nil
	case <-time.After(20 * time.Second):
		return errors.New("the relay has not ended")
	}
}

func bothWays(near, far ender) error {
	there, back := randomWay(), randomWay()
	var thereErr, backErr error
	var both sync.WaitGroup
	both.Go(func() { thereErr = there.run(near, far) })
	both.Go(func() { backErr = back.run(far, near) })
	both.Wait()
	return errors.Join(thereErr, backErr)
}

// cutOff resets near while both send; what has arrived until then must be right,
// and the end no polite one.
func cutOff(near *net.TCPConn, far ender) error {
	var sending sync.WaitGroup
	var writeErr error
	sending.Go(func() { _, _ = near.Write(content) })
	sending.Go(func() { _, writeErr = far.Write(content) })
	time.AfterFunc(time.Duration(rand.IntN(5000))*time.Microsecond, func() {
		_ = near.SetLinger(0)
		_ = near.Close()
	})
	got, err := io.ReadAll(far)
	_ = far.Close()
	sending.Wait()
	if !bytes.HasPrefix(content, got) {
		return fmt.Errorf("%d other bytes arrived before the reset", len(got))
	}
	// Linux tells a socket's error once: to the read or to the write.
	told := errors.Is(err, syscall.ECONNRESET) || errors.Is(writeErr, syscall.ECONNRESET)
	if _, tcp := far.(*net.TCPConn); tcp && !told && len(got) < len(content) {
		return fmt.Errorf("a reset after %d bytes arrived as an end", len(got))
	}
	return nil
}

// Hundreds of flows at a time, of all sizes, that end in all ways.
func TestTCPStress(t *testing.T) {
	const flows, together = 300, 64
	for _, networks := range [][2]string{{"tcp4", "tcp4"}, {"tcp4", "unix"}, {"unix", "unix"}} {
		t.Run(networks[0]+" to "+networks[1], func(t *testing.T) {
			noLeaks(t)
			left, right := listenOn(t, networks[0]), listenOn(t, networks[1])
			places := make(chan struct{}, together)
			var all sync.WaitGroup
			for range flows {
				places <- struct{}{}
				all.Go(func() {
					defer func() { <-places }()
					if err := stressed(t, left, right); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			eventually(t, "no pipe is lent", func() bool { return lentPipes() == 0 })
			if n := stuck.held.Load(); n != 0 {
				t.Errorf("%d bytes count as stuck", n)
			}
		})
	}
}
