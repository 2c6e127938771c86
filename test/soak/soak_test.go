// Package soak lets a whole machine work for as long as -duration says: mixed
// traffic of which every byte is checked, containers that come and go, and
// processes that are killed at random. Afterwards nothing may have grown.
// `make soak` runs it; docs/reliability.md has what came of it.
package soak

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

var (
	duration = flag.Duration("duration", 10*time.Minute, "how long the machine works")
	seed     = flag.Uint64("seed", 0, "of the random choices; 0: by the clock")
	user     = flag.Bool("user", false, "the machine is an ordinary user's, made for the run")
)

// recovery is five times the 3 s within which a killed process is back; the
// engine's own programs get longer, because dockerd counts its containers.
const recovery = 30 * time.Second

// victims are what is killed.
var victims = []string{"daemon", "helper", "agent", "dockerd", "containerd"}

// soak is one run.
type soak struct {
	s      *stage.Stage
	random *rand.Rand // of the killer alone
	tally  *tally
	log    *outages
	keys   testimage.Result // of the host's ssh-agent

	// making is held by who makes and removes a container, and written by who
	// kills the engine: dockerd forgets a container in whose creation it is
	// killed, while containerd keeps it (its shim, "runc init" and network stay).
	making sync.RWMutex
}

func BenchmarkSoak(t *testing.B) {
	build := stage.New
	if *user {
		build = stage.NewUser
	}
	s := build(t)
	agent := startAgent(t, s)
	s.Env = append(s.Env, "SSH_AUTH_SOCK="+agent)
	s.Portolan(t, "up")
	s.LoadImage(t)
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d, %s of work", *seed, *duration)
	r := &soak{s: s, random: rand.New(rand.NewPCG(*seed, 1)), tally: newTally(), log: &outages{}, keys: s.HostToolbox(t, "ssh-keys", agent)}
	s.Serve(t, "web", []string{"--restart", "always", "-p", "8000:80"}, "web")
	s.Serve(t, "echo", []string{"--restart", "always", "-p", "7000:7/udp"}, "echo-udp")
	s.Serve(t, "inside", []string{"--restart", "always", "--network", "bridge", "--mount", "type=bind,src=" + agentSocket + ",target=" + agentSocket}, "echo-tcp")
	s.Serve(t, "host", []string{"--restart", "always", "--network", "host"}, "echo-tcp", "-addr", ":7200")
	receive(t, s)

	for _, victim := range victims { // a process's successor differs a little
		r.kill(t, victim)
	}
	before := r.hold(t)
	r.work(t, *duration)
	r.removeAll(t)
	after := r.settle(t, before)
	// A benchmark's log is cut after some lines.
	fmt.Fprintf(os.Stdout, "\nseed %d\n\n%s\n%s\n%s\n", *seed, r.tally, r.log, compare(before, after))
	for _, line := range grown(before, after) {
		t.Errorf("grown: %s", line)
	}
	r.tally.check(t)
}

// work runs all traffic side by side until the time is over, while processes are
// killed at random.
func (r *soak) work(t testing.TB, long time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	var workers sync.WaitGroup
	for i, job := range jobs() {
		random := rand.New(rand.NewPCG(*seed, uint64(i)+2))
		workers.Go(func() {
			for ctx.Err() == nil {
				r.once(t, job, random)
			}
		})
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(1+r.random.IntN(8)) * time.Second):
			r.kill(t, victims[r.random.IntN(len(victims))])
		}
	}
	workers.Wait()
}

// kill kills one process and waits until another is in its place and all is well.
func (r *soak) kill(t testing.TB, victim string) {
	t.Helper()
	if victim == "dockerd" || victim == "containerd" {
		r.making.Lock()
		defer r.making.Unlock()
	}
	pid := r.pid(t, victim)
	if pid <= 1 {
		t.Fatalf("no process of %s", victim)
	}
	end := r.log.begin(victim)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %s: %v", victim, err)
	}
	stage.Eventually(t, recovery, victim+" is back", func() bool {
		status, err := r.status(t)
		again := r.pid(t, victim)
		return err == nil && status.State == api.Running && again != pid && (victim != "containerd" || listens(again))
	})
	end()
}

// listens reports whether containerd takes commands: its process is there before
// its socket is.
func listens(containerd int) bool {
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", containerd))
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

func (r *soak) pid(t testing.TB, victim string) int {
	t.Helper()
	switch victim {
	case "daemon":
		status, _ := r.status(t) // 0 while there is none
		return status.Daemon.PID
	case "helper":
		status, _ := r.status(t)
		return status.Helper.PID
	case "agent":
		return r.s.MachineProcess(t, "portolan-agent serve")
	case "containerd":
		return r.s.MachineProcess(t, "containerd --config")
	}
	return r.s.MachineProcess(t, victim)
}

// status is an error while the daemon dies or begins.
func (r *soak) status(t testing.TB) (status api.Status, err error) {
	t.Helper()
	out, code := r.s.TryPortolan(t, "status", "--json")
	if code != 0 {
		return status, fmt.Errorf("exit code %d: %s", code, out)
	}
	err = json.Unmarshal([]byte(out), &status)
	if err == nil && status.Machine.PID == 0 {
		err = fmt.Errorf("the state is %s", status.State)
	}
	return status, err
}

// once does one job and notes how that went. What goes wrong while something
// that the job needs is away is no failure; wrong bytes always are.
func (r *soak) once(t testing.TB, j job, random *rand.Rand) {
	t.Helper()
	began := time.Now()
	n, err := j.do(t, r, random)
	r.tally.add(j.name, n, err, r.log.disturbed(j.needs, began, time.Now()))
	if err != nil {
		time.Sleep(50 * time.Millisecond) // not as fast as it can fail
	}
}

// job is one kind of traffic.
type job struct {
	name  string
	needs []string // victims without which it may fail
	do    func(t testing.TB, r *soak, random *rand.Rand) (int64, error)
}

// jobs are run by one worker each. What needs docker needs the engine.
func jobs() []job {
	traffic := []string{"daemon"}
	engine := victims
	return []job{
		{"published TCP, body out", traffic, publishedDown},
		{"published TCP, body in", traffic, publishedUp},
		{"published UDP", traffic, publishedUDP()},
		{"stream out of a container", engine, streamOut},
		{"UDP out of a container", engine, toolbox("udp-send", lab.WebV4+":7", "-size", "9000")},
		{"names", engine, toolbox("lookup", "web.internet.test")},
		{"ping", engine, toolbox("ping", lab.WebV4)},
		{"host network", engine, hostNetwork},
		{"by way of the forward proxy", engine, proxied},
		{"ssh-agent", engine, sshAgent},
		{"container with a port", engine, churn},
	}
}
