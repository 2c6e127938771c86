package bench

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

var quick = flag.Bool("quick", false, "fewer and shorter rounds")

// effort says how much is measured.
type effort struct {
	rounds  int           // of throughput and small requests
	bulk    time.Duration // of one iperf3 run
	small   time.Duration // of one run of the probe
	runs    int           // docker run
	ups     int           // portolan up
	idleFor time.Duration // before memory is read
}

func chosen() effort {
	if *quick {
		return effort{3, 2 * time.Second, 500 * time.Millisecond, 10, 3, 10 * time.Second}
	}
	return effort{5, 4 * time.Second, 2 * time.Second, 25, 5, 10 * time.Second}
}

// BenchmarkMachine runs once, whatever b.N is, and writes tables in Markdown to
// the standard output. Its parts can be chosen: -bench Machine/throughput.
func BenchmarkMachine(b *testing.B) {
	effort, out := chosen(), io.Writer(os.Stdout)
	s := stage.New(b)
	b.Run("up", func(b *testing.B) { measureUp(b, s, effort, out) })
	s.Portolan(b, "up")
	b.Run("idle", func(b *testing.B) { measureIdle(b, s, effort, out) })
	probe := buildProbe(b)
	tar := writeImage(b, probe)
	s.Docker(b, "load", "-q", "-i", tar)
	b.Run("run", func(b *testing.B) { measureRun(b, s, tar, effort, out) })
	b.Run("network", func(b *testing.B) {
		paths := newPaths(b, s, probe)
		b.Run("small", func(b *testing.B) { measureSmall(b, paths, effort, out) })
		b.Run("throughput", func(b *testing.B) { measureThroughput(b, paths, effort, out) })
	})
	b.Run("later", func(b *testing.B) { measureIdle(b, s, effort, out) })
}

// measureUp times `portolan up` where a machine was before, and the first of all.
func measureUp(b *testing.B, s *stage.Stage, e effort, out io.Writer) {
	t := newTable("Start of a machine", "seconds")
	for i := range e.ups + 1 {
		row := "portolan up"
		if i == 0 {
			row = "the first, with empty state"
		}
		began := time.Now()
		s.Portolan(b, "up")
		t.add(row, time.Since(began).Seconds())
		s.Portolan(b, "down")
	}
	t.print(out)
}

// measureIdle reads the resident memory of Portolan's processes.
func measureIdle(b *testing.B, s *stage.Stage, e effort, out io.Writer) {
	time.Sleep(e.idleFor) // idleness is what is measured
	status := s.Status(b)
	t := newTable("Memory, idle ("+b.Name()+")", "VmRSS, MiB")
	t.add("daemon", residentMiB(b, status.Daemon.PID))
	t.add("router helper", residentMiB(b, status.Helper.PID))
	t.add("init", residentMiB(b, status.Machine.PID))
	t.add("agent", residentMiB(b, s.MachineProcess(b, "portolan-agent serve")))
	t.print(out)
}

// measureRun times a container that does nothing, with Portolan and without.
func measureRun(b *testing.B, s *stage.Stage, tar string, e effort, out io.Writer) {
	bare := startBareEngine(b, s.Bin.Engine, filepath.Join(s.Lab.Dir, "bare"))
	docker := func(host string, args ...string) (time.Duration, error) {
		began := time.Now()
		text, err := output(s.Command(b.Context(), "env", append([]string{"DOCKER_HOST=" + host, "docker"}, args...)...))
		if err != nil {
			err = fmt.Errorf("docker %s: %w\n%s", strings.Join(args, " "), err, text)
		}
		return time.Since(began), err
	}
	eventually(b, "the bare engine answers", func() bool {
		_, err := docker(bare, "version")
		return err == nil
	})
	_, err := docker(bare, "load", "-q", "-i", tar)
	check(b, err)
	t := newTable("docker run --rm of a program that ends at once", "milliseconds")
	ours := "unix://" + filepath.Join(s.RunDir, "default", "docker.sock")
	for round := range e.runs + 2 {
		for _, engine := range []struct{ name, host string }{{"plain engine", bare}, {"Portolan", ours}} {
			took, err := docker(engine.host, "run", "--rm", imageName)
			check(b, err)
			if round >= 2 { // the first ones fill caches
				t.add(engine.name, float64(took.Microseconds())/1000)
			}
		}
	}
	t.print(out, "plain engine")
}

// The contestants' names.
const (
	loopback  = "loopback, no gateway"
	kernel    = "kernel forwarding"
	kernel15  = "kernel forwarding, MTU 1500 as containers have it"
	slirp     = "slirp4netns"
	pasta     = "pasta"
	toHost    = "Portolan, container to host"
	toLAN     = "Portolan, container to LAN neighbour"
	published = "Portolan, published port"
	connected = "Portolan, host to container by portolan connect"
)

// newPaths sets all contestants up.
func newPaths(b *testing.B, s *stage.Stage, probe string) []path {
	usual := [2]string{iperfPort, probePort}
	iperf := mustFind(b, "iperf3")
	client, server := newForwarding(b, largeMTU)
	serve(b, server.command, "0.0.0.0", probe)
	client15, server15 := newForwarding(b, containerMTU)
	serve(b, server15.command, "0.0.0.0", probe)
	inSlirp, slirpPID := newSlirp(b, server)
	paths := []path{
		{loopback, server.command, iperf, probe, "127.0.0.1", usual, 0},
		{kernel, client.command, iperf, probe, serverAddress, usual, 0},
		{kernel15, client15.command, iperf, probe, serverAddress, usual, 0},
		{slirp, inSlirp, iperf, probe, slirpHost, usual, slirpPID},
	}
	if inPasta, pastaPID := newPasta(b, server); inPasta != nil {
		paths = append(paths, path{pasta, inPasta, iperf, probe, pastaHost, usual, pastaPID})
	}

	serve(b, s.Lab.Host.Command, "127.0.0.1", probe)
	serve(b, s.Lab.Neighbour.Command, lab.NeighbourV4, probe)
	s.Docker(b, "run", "-d", "--name", "client", "--tmpfs", "/tmp", imageName, "/bin/probe", "serve", ":1")
	s.Docker(b, "run", "-d", "--name", "server1", "--tmpfs", "/tmp", "-p", "6201:"+iperfPort, imageName, "/bin/iperf3", "-s")
	s.Docker(b, "run", "-d", "--name", "server2", "-p", "6202:"+probePort, imageName, "/bin/probe", "serve", ":"+probePort)
	b.Cleanup(func() { s.Docker(b, "rm", "-f", "client", "server1", "server2") })
	container := func(ctx context.Context, name string, args ...string) *exec.Cmd {
		return s.Command(ctx, "docker", append([]string{"exec", "client", name}, args...)...)
	}
	status := s.Status(b)
	host, daemon := fmt.Sprint(status.Link.Host().V4), status.Daemon.PID
	return append(paths,
		path{toHost, container, "/bin/iperf3", "/bin/probe", host, usual, daemon},
		path{toLAN, container, "/bin/iperf3", "/bin/probe", lab.NeighbourV4, usual, daemon},
		path{connected, s.Lab.Host.Command, iperf, probe, connectHost(b, s), usual, 0},
		path{published, s.Lab.Host.Command, iperf, probe, "127.0.0.1", [2]string{"6201", "6202"}, daemon},
	)
}

func measureThroughput(b *testing.B, paths []path, e effort, out io.Writer) {
	for _, direction := range []struct {
		name    string
		reverse bool
	}{{"client to server", false}, {"server to client (-R)", true}} {
		speed := newTable("One TCP flow, "+direction.name, "Gbit/s")
		cost := newTable("CPU time of client, server and carrier, "+direction.name, "seconds for each GB")
		for range e.rounds {
			for _, p := range paths {
				got := p.bulk(b, e.bulk, direction.reverse)
				speed.add(p.name, got.gigabits)
				cost.add(p.name, got.cpu)
			}
		}
		speed.print(out, kernel, slirp)
		cost.print(out, kernel, slirp)
	}
}

func measureSmall(b *testing.B, paths []path, e effort, out io.Writer) {
	typical := newTable("Request and answer of 64 bytes on one connection, p50", "microseconds")
	slow := newTable("The same, p99", "microseconds")
	one := newTable("Connect, request, answer, close: one at a time", "per second")
	eight := newTable("The same, eight at a time", "per second")
	for range e.rounds {
		for _, p := range paths {
			requests := p.requests(b, e.small)
			typical.add(p.name, requests.P50)
			slow.add(p.name, requests.P99)
			one.add(p.name, p.connects(b, e.small, 1).PerSecond)
			eight.add(p.name, p.connects(b, e.small, 8).PerSecond)
		}
	}
	for _, t := range []*table{typical, slow, one, eight} {
		t.print(out, kernel, slirp)
	}
}
