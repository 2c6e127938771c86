package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/portolan-net/portolan/internal/api"
)

// Supervisor keeps containerd and dockerd running. When one of them ends it is
// started again, and the status says so; containers go on meanwhile.
type Supervisor struct {
	Layout  Layout
	Options map[string]any // the user's engine options
	Good    map[string]any // those with which dockerd last answered, for when it refuses Options
	LogDir  string
	Source  string // for the status
	Version string
	Ending  func()           // called before dockerd is ended to start again; may be nil
	Report  func(api.Engine) // called after each change, never concurrently
	Log     *slog.Logger

	stopping   atomic.Bool  // Shutdown was called: nothing is started again
	asked      atomic.Bool  // Configure ends dockerd: that is no failure
	failures   atomic.Int32 // of dockerd
	answered   atomic.Bool  // dockerd has answered this agent once
	config     sync.Mutex   // guards Layout and Options from Begin on, the files made of them, and the one below
	swarmUntil time.Time    // till when dockerd may be about to enter swarm mode
	mu         sync.Mutex   // guards status and calls of Report
	status     api.Engine
}

// Begin writes the configuration. It comes before everything else. In place of
// options that dockerd refuses it takes the good ones, and the status says so.
func (s *Supervisor) Begin(ctx context.Context) error {
	s.config.Lock()
	defer s.config.Unlock()
	s.Layout.Swarm = inSwarm()
	var err error
	if len(s.Options) > 0 {
		err = s.try(ctx, s.Layout, s.Options)
	}
	if _, refused := errors.AsType[*refusal](err); refused {
		return s.goBack(err.Error())
	}
	return s.writeConfig() // what else is wrong with dockerd will show
}

// goBack takes the good options, with s.config held.
func (s *Supervisor) goBack(why string) error {
	s.Log.Warn("engine options are not in force", "why", why)
	s.Options = s.Good
	s.status.Refused = why // for the first report
	return s.writeConfig()
}

// doubt takes the good options when dockerd has not answered with the others and
// ends again and again. Configure looks after what it has chosen itself.
func (s *Supervisor) doubt() {
	if s.failures.Load() < maxFailures || s.answered.Load() || !s.config.TryLock() {
		return
	}
	defer s.config.Unlock()
	if reflect.DeepEqual(s.Options, s.Good) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.goBack("dockerd does not start with the options: " + LastLine(s.dockerdLog())); err != nil {
		s.Log.Warn("go back to good options", "err", err)
	}
}

func (s *Supervisor) dockerdLog() string { return filepath.Join(s.LogDir, "engine.log") }

// Run supervises until ctx ends; the programs themselves go on, for the next
// agent to adopt.
func (s *Supervisor) Run(ctx context.Context) error {
	s.update(func(e *api.Engine) { e.Source, e.Version = s.Source, s.Version })
	configs := s.configFiles()
	env := append(os.Environ(), "PATH="+programPath(s.Layout.BinDir), "HOME="+s.Layout.RuntimeDir, "TMPDIR=")
	containerd := process{
		name: "containerd", env: env, runDir: s.Layout.RuntimeDir, logPath: filepath.Join(s.LogDir, "containerd.log"),
		argv: []string{filepath.Join(s.Layout.BinDir, "containerd"), "--config", configs.containerd},
	}
	dockerd := process{
		name: "dockerd", env: env, runDir: s.Layout.RuntimeDir, logPath: s.dockerdLog(),
		argv: []string{filepath.Join(s.Layout.BinDir, "dockerd"), "--config-file", configs.dockerd},
	}
	dockerd.env = append(dockerd.env, "DOCKER_BUILDKIT_RUNC_COMMAND="+s.Layout.StepRunc)
	if s.Layout.Rootless {
		dockerd.argv = append(dockerd.argv, "--rootless")
		dockerd.env = append(dockerd.env, s.rootlessEnv()...)
	}
	group, ctx := errgroup.WithContext(ctx)
	if s.Layout.Rootless {
		group.Go(func() error { return s.serveRootlessInfo(ctx) })
	}
	group.Go(func() error { return s.keep(ctx, containerd) })
	group.Go(func() error {
		if err := awaitSocket(ctx, containerdSocket); err != nil {
			return err
		}
		return s.keep(ctx, dockerd)
	})
	group.Go(func() error { return s.watchReady(ctx) })
	return group.Wait()
}

// programPath is where the engine finds programs. iptables is in a directory that
// an ordinary user's PATH need not hold.
func programPath(binDir string) string {
	return binDir + ":" + os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin"
}

type configFiles struct{ dockerd, containerd string }

func (s *Supervisor) configFiles() configFiles {
	return configFiles{
		dockerd:    filepath.Join(s.Layout.RuntimeDir, "daemon.json"),
		containerd: filepath.Join(s.Layout.RuntimeDir, "containerd.toml"),
	}
}

func (s *Supervisor) writeConfig() error {
	files := s.configFiles()
	text, err := s.Layout.DaemonJSON(s.Options)
	if err != nil {
		return err
	}
	if err := os.WriteFile(files.dockerd, text, 0o600); err != nil {
		return err
	}
	return os.WriteFile(files.containerd, s.Layout.ContainerdTOML(), 0o600)
}

// Restart delays: at once after a long life, slower for one that can't live.
const (
	restartMin  = 100 * time.Millisecond
	restartMax  = 10 * time.Second
	healthyLife = 30 * time.Second
)

// keep runs one program over and over.
func (s *Supervisor) keep(ctx context.Context, p process) error {
	delay := restartMin
	for {
		started := time.Now()
		exit, err := p.run(ctx, s.Log)
		if ctx.Err() != nil || s.stopping.Load() {
			return nil
		}
		if err != nil {
			exit = err.Error()
		}
		if p.name == "dockerd" && s.asked.CompareAndSwap(true, false) {
			s.Log.Info("dockerd starts with another configuration")
			s.update(func(e *api.Engine) { e.Ready = false })
			continue
		}
		s.Log.Warn("engine program ended", "program", p.name, "exit", exit)
		if p.name == "dockerd" {
			s.failures.Add(1)
			s.doubt()
		}
		s.update(func(e *api.Engine) {
			e.Restarts++
			e.Ready = e.Ready && p.name != "dockerd"
			e.LastExit = fmt.Sprintf("%s at %s: %s", p.name, time.Now().Format(time.TimeOnly), exit)
		})
		if time.Since(started) > healthyLife {
			delay = restartMin
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		if s.stopping.Load() {
			return nil // asked to stop during the delay
		}
		delay = min(2*delay, restartMax)
	}
}

func (s *Supervisor) update(change func(*api.Engine)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.status
	change(&s.status)
	if s.status != before {
		s.Report(s.status)
	}
}

// Intervals of the look whether dockerd answers: soon while it starts, seldom
// later, since keep sees its death at once.
const (
	readySoon   = 20 * time.Millisecond
	readySeldom = 5 * time.Second
	pingTimeout = 4 * time.Second
)

// watchReady keeps the status' Ready true to what dockerd answers, and notices that
// dockerd has left swarm mode.
func (s *Supervisor) watchReady(ctx context.Context) error {
	client := http.Client{Timeout: pingTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.Layout.Socket)
		},
		DisableKeepAlives: true,
	}}
	for {
		ready := ping(ctx, &client)
		if ready {
			s.answered.Store(true)
		}
		s.update(func(e *api.Engine) { e.Ready = ready })
		wait := readySoon
		if ready {
			s.afterSwarm()
			wait = readySeldom
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func ping(ctx context.Context, client *http.Client) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/_ping", http.NoBody)
	if err != nil {
		return false
	}
	answer, err := client.Do(request)
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// awaitSocket returns when somebody listens on the unix socket.
func awaitSocket(ctx context.Context, path string) error {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			return conn.Close()
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) && ctx.Err() == nil {
			return fmt.Errorf("wait for %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(readySoon):
		}
	}
}
