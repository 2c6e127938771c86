package bench

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/portolan-net/portolan/internal/stage"
)

var rangeSize = flag.Int("range", 25, "ports of TestRange; 1000 take a quarter of an hour: give -timeout 30m")

const rangeRounds = 3

// perPort is what a process of Portolan's for one port may need, in MiB: a static
// program that waits has some 50 KiB, a docker-proxy 1.5 MiB.
const perPort = 0.25

// TestRange has a range of ports published by Portolan and by the same engine with
// its own docker-proxy, both at once, so that a busy computer treats them alike.
// It says how long each takes and what memory they need: that of the processes
// that each port has, and what Portolan's daemon and agent grow by.
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
	for _, e := range []*dockerEngine{ours, theirs} {
		e.must(t, "network", "create", "--ipv6", "dual")
	}
	carriers := []int{s.Status(t).Daemon.PID, ours.root}
	before := shareMiB(t, carriers...)
	for range rangeRounds {
		took := publishRange(t, *rangeSize, ours, theirs)
		ports, theirPorts := shareMiB(t, ours.proxies()...), shareMiB(t, theirs.proxies()...)
		t.Logf("%d ports: Portolan %v, %.1f MiB and %+.1f MiB of daemon and agent; docker-proxy %v, %.1f MiB",
			*rangeSize, took[0], ports, shareMiB(t, carriers...)-before, took[1], theirPorts)
		if each := ports / float64(2**rangeSize); each > perPort {
			t.Errorf("a port's process needs %.2f MiB, want at most %v", each, perPort)
		}
		for _, e := range []*dockerEngine{ours, theirs} {
			e.must(t, "rm", "-f", "range")
		}
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
			if text, err := e.docker("run", "-d", "--name", "range", "--network", "dual", "-p", ports, imageName, "/bin/probe", "serve", "127.0.0.1:1"); err != nil {
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
