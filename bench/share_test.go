package bench

import (
	"context"
	"flag"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

var shareFlows = flag.String("flows", "", "how many flows BenchmarkShare runs at a time, a list such as 33,200,1000; none: it does nothing")

// BenchmarkShare runs many bulk flows of an ordinary user's container at a time
// and says what the last of them gets of a fair share, which is an equal one.
// The kernel gives such a user pipes for few flows only.
func BenchmarkShare(b *testing.B) {
	if *shareFlows == "" {
		return // it takes minutes, and is asked for seldom
	}
	effort := chosen()
	s := stage.NewUser(b)
	s.Portolan(b, "up")
	s.LoadImage(b)
	r := newRecorder()
	const group = "Many flows of an ordinary user"
	path := filepath.Join(b.TempDir(), "toolbox")
	check(b, testimage.Build(b.Context(), path))
	ways := []struct {
		name string
		send func(ctx context.Context, args ...string) *exec.Cmd
	}{
		{"no gateway", func(ctx context.Context, args ...string) *exec.Cmd { return s.Lab.Host.Command(ctx, path, args...) }},
		{"Portolan, an ordinary user's", func(ctx context.Context, args ...string) *exec.Cmd {
			return s.Command(ctx, "docker", append([]string{"run", "--rm", "--init", testimage.Name}, args...)...)
		}},
	}
	for text := range strings.SplitSeq(*shareFlows, ",") {
		n, err := strconv.Atoi(text)
		check(b, err)
		for range (effort.rounds + 1) / 2 {
			for _, way := range ways {
				rates := shareOnce(b, s, n, shareFor*effort.bulk, way.send)
				sum := 0.0
				for _, rate := range rates {
					sum += rate
				}
				row, fair := text+" flows, "+way.name, sum/float64(n)
				r.add(group, column{id: "share/all", title: "all together", unit: "Gbit/s"}, row, sum*8/1e9)
				r.add(group, column{id: "share/last", title: "the flow that was opened last", unit: "of a fair share"}, row, rates[n-1]/fair)
				slices.Sort(rates)
				r.add(group, column{id: "share/tenth", title: "the flow that nine of ten are faster than", unit: "of a fair share"}, row, rates[n/10]/fair)
			}
		}
	}
	r.environment(b, s)
	r.finish(b)
}

// shareFor is how many times longer than one bulk flow the flows are watched: a
// thousand of them take turns.
const shareFor = 5

// shareOnce returns bytes per second of each flow, in the order in which they
// were opened.
func shareOnce(b *testing.B, s *stage.Stage, n int, d time.Duration, send func(context.Context, ...string) *exec.Cmd) []float64 {
	b.Helper()
	listener, err := s.Lab.Internet.Listen("tcp", lab.EmptyV4+":0")
	check(b, err)
	defer listener.Close()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	sender := send(ctx, "exchange", listener.Addr().String(), "-count", strconv.Itoa(n), "-bytes", strconv.Itoa(1<<50))
	check(b, sender.Start())
	defer func() { _ = sender.Wait() }() // it is killed, or its connections are closed
	counts := make([]atomic.Int64, n)
	for i := range n {
		conn, err := listener.Accept()
		check(b, err)
		defer conn.Close()
		go count(conn, &counts[i])
	}
	time.Sleep(d / 5) // slow start
	before := make([]int64, n)
	began := time.Now()
	for i := range counts {
		before[i] = counts[i].Load()
	}
	time.Sleep(d)
	rates := make([]float64, n)
	for i := range counts {
		rates[i] = float64(counts[i].Load()-before[i]) / time.Since(began).Seconds()
	}
	return rates
}

// count reads until the connection is closed.
func count(conn net.Conn, into *atomic.Int64) {
	for buf := make([]byte, 128<<10); ; {
		n, err := conn.Read(buf)
		into.Add(int64(n))
		if err != nil {
			if err != io.EOF {
				_ = conn.Close()
			}
			return
		}
	}
}
