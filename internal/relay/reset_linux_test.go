package relay

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// Each case brings a flow into a state; then one side is reset, and the other
// must see that, whichever side it is.
func TestTCPReset(t *testing.T) {
	cases := []struct {
		name    string
		prepare func(t *testing.T, resetter, other *net.TCPConn)
		want    func(t testing.TB, other *net.TCPConn)
	}{
		{"while idle", func(*testing.T, *net.TCPConn, *net.TCPConn) {}, wantReset},
		{"after the resetter's FIN", func(t *testing.T, resetter, other *net.TCPConn) {
			finish(t, resetter, other)
		}, wantResetAfterFIN},
		{"after the other's FIN", func(t *testing.T, resetter, other *net.TCPConn) {
			finish(t, other, resetter)
		}, wantReset},
		{"while the other does not read", func(t *testing.T, resetter, _ *net.TCPConn) {
			block(t, resetter)
		}, wantReset},
		{"while the resetter does not read", func(t *testing.T, _, other *net.TCPConn) {
			block(t, other)
		}, wantReset},
		{"while neither reads", func(t *testing.T, resetter, other *net.TCPConn) {
			block(t, resetter)
			block(t, other)
		}, wantReset},
		{"while the other, after its FIN, does not read", func(t *testing.T, resetter, other *net.TCPConn) {
			finish(t, other, resetter)
			block(t, resetter)
		}, wantReset},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			noLeaks(t)
			f := relayed(t, plain)
			c.prepare(t, f.left, f.right)
			reset(t, f.left)
			f.await(t) // before anyone reads: the RST must not wait for that
			c.want(t, f.right)

			f = relayed(t, plain)
			c.prepare(t, f.right, f.left)
			reset(t, f.right)
			f.await(t)
			c.want(t, f.left)
		})
	}
}

// finish sends a FIN from one end and waits until it has crossed.
func finish(t *testing.T, from, to *net.TCPConn) {
	t.Helper()
	if err := from.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = to.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := to.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("read: %v, want the end", err)
	}
}

// block writes until nothing more is taken for a while, and returns how much was.
func block(t *testing.T, conn *net.TCPConn) int {
	t.Helper()
	total := 0
	for data := make([]byte, 64<<10); ; {
		_ = conn.SetWriteDeadline(time.Now().Add(10 * blockedAfter))
		n, err := conn.Write(data)
		total += n
		if err != nil {
			return total
		}
	}
}

// An RST that the opposite direction's write sees first must not look like a
// FIN to the one who sends.
func TestTCPResetUnderLoadIsNoEnd(t *testing.T) {
	noLeaks(t)
	for range 100 {
		f := relayed(t, plain)
		go func() { // until the reset
			for data := make([]byte, 32<<10); ; {
				if _, err := f.right.Write(data); err != nil {
					return
				}
			}
		}()
		if _, err := io.CopyN(io.Discard, f.left, 100_000); err != nil {
			t.Fatal(err)
		}
		reset(t, f.left)
		f.await(t)
		_ = f.right.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := f.right.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			// The writer may have taken the error; then a write must fail.
			if _, err := f.right.Write([]byte("x")); err == nil {
				t.Fatal("the sender sees no reset")
			}
		}
	}
}

func TestTCPPeerThatNeverReadsHoldsLittle(t *testing.T) {
	noLeaks(t)
	for range 20 {
		f := relayed(t, plain)
		// Four socket buffers lie on the way; Linux lets each grow to 6 MB at most.
		if taken := block(t, f.left); taken > 24<<20 {
			t.Errorf("%d bytes were taken for a peer that never reads", taken)
		}
	}
	eventually(t, "blocked flows give their pipes back", func() bool { return lentPipes() == 0 })
}

func TestTCPIdleFlowHoldsNothing(t *testing.T) {
	noLeaks(t)
	const flows = 3 * maxPipes
	for range flows {
		f := relayed(t, plain)
		if _, err := f.left.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(f.right, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "idle flows hold no pipe", func() bool { return lentPipes() == 0 })
	if pipes.open > maxPipes {
		t.Errorf("%d pipes are open, want %d at most", pipes.open, maxPipes)
	}
}
