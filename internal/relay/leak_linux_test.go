package relay

import (
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// noLeaks fails the test if it leaves goroutines or descriptors behind. Call it
// before anything else is set up.
func noLeaks(t *testing.T) {
	t.Helper()
	for _, c := range twoConns(t) { // the first use of the network opens the runtime's poller
		_ = c.Close()
	}
	assign() // the workers stay
	drainPool()
	before := openDescriptors(t)
	goroutines := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		goleak.VerifyNone(t, goroutines)
		drainPool()
		deadline := time.Now().Add(5 * time.Second)
		for openDescriptors(t) > before && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		if after := openDescriptors(t); after > before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
}

func twoConns(t *testing.T) [2]*net.TCPConn {
	t.Helper()
	client, server := pair(t)
	return [2]*net.TCPConn{client, server}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// drainPool closes the pipes that wait for the next flow.
func drainPool() {
	pipes.mu.Lock()
	idle := pipes.idle
	pipes.idle = nil
	pipes.mu.Unlock()
	for _, p := range idle {
		pipes.discard(p)
	}
}

// lentPipes is the number of pipes that a direction holds.
func lentPipes() int {
	pipes.mu.Lock()
	defer pipes.mu.Unlock()
	return pipes.open - len(pipes.idle)
}

// eventually waits until ok, for five seconds at most.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 5 s", what)
		}
	}
}
