package bench

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/portolan-net/portolan/bench/report"
	"github.com/portolan-net/portolan/internal/stage"
)

var rangeSize = flag.Int("range", 25, "ports of TestRange; 1000 take a quarter of an hour: give -timeout 30m")

const (
	rangeRounds = 3
	// noSlower is Portolan's time for a range, of docker-proxy's, with room for
	// what else the computer does: dockerd's own work takes most of both.
	noSlower = 1.5
)

// TestRange has a range of ports published by Portolan and by the same engine with
// its own docker-proxy, both at once, so that a busy computer treats them alike.
// Portolan is no slower, and needs less than half of the memory: that of the
// processes that each port has, and what its daemon and agent grow by.
func TestRange(t *testing.T) {
	proxy, err := find("docker-proxy")
	if err != nil {
		t.Skipf("find docker-proxy: %v", err)
	}
	raiseFiles()
	s := stage.New(t)
	s.Portolan(t, "up")
	image := writeImage(t)
	s.Docker(t, "load", "-q", "-i", image)
	ours, theirs := portolanEngine(t, s), startPlain(t, s, newSpace(t), image, "proxied", proxy)
	carriers := []int{s.Status(t).Daemon.PID, ours.root}
	before := shareMiB(t, carriers...)
	var ratios []float64
	for range rangeRounds {
		took := publishRange(t, *rangeSize, ours, theirs)
		memory := shareMiB(t, ours.proxies()...) + shareMiB(t, carriers...) - before
		theirMemory := shareMiB(t, theirs.proxies()...)
		t.Logf("%d ports: Portolan %v and %.1f MiB, docker-proxy %v and %.1f MiB", *rangeSize, took[0], memory, took[1], theirMemory)
		if memory > theirMemory/2 {
			t.Errorf("Portolan needs %.1f MiB, docker-proxy %.1f MiB; want less than half", memory, theirMemory)
		}
		ratios = append(ratios, took[0].Seconds()/took[1].Seconds())
		for _, e := range []*dockerEngine{ours, theirs} {
			e.must(t, "rm", "-f", "range")
		}
	}
	if median := report.Median(ratios); median > noSlower {
		t.Errorf("Portolan takes %.2f times as long as docker-proxy", median)
	}
}

// publishRange has each engine run a container with n ports, all at once, and
// returns how long each took.
func publishRange(t *testing.T, n int, engines ...*dockerEngine) []time.Duration {
	t.Helper()
	ports := fmt.Sprintf("20000-%d:20000-%[1]d", 20000+n-1)
	took := make([]time.Duration, len(engines))
	var all errgroup.Group
	for i, e := range engines {
		all.Go(func() error {
			began := time.Now()
			if text, err := e.docker("run", "-d", "--name", "range", "-p", ports, imageName, "/bin/probe", "serve", "127.0.0.1:1"); err != nil {
				return fmt.Errorf("%s: docker run -p %s: %w: %s", e.name, ports, err, text)
			}
			took[i] = time.Since(began)
			return nil
		})
	}
	check(t, all.Wait())
	for _, e := range engines {
		if got := len(e.proxies()); got != 2*n {
			t.Errorf("%s has %d processes for ports, want %d", e.name, got, 2*n)
		}
	}
	return took
}
