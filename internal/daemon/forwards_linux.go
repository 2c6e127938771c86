package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/agent"
	"github.com/portolan-net/portolan/internal/agentlink"
	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/daemon/deputy"
	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/hostservice"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/relay"
	"github.com/portolan-net/portolan/internal/settings"
	"github.com/portolan-net/portolan/internal/spec"
)

// forwarding is the host's side of package hostservice: the user's ssh-agent,
// and the forwards that the profile keeps.
type forwarding struct {
	table     *hostservice.Table
	agents    hostservice.Environment
	authSock  atomic.Pointer[string] // newer than that of agents
	chosen    func() string          // setting sshAgent
	allowHost func(portolan.Flow) error
	deputy    *deputy.Deputy  // has what a confined daemon lacks
	back      portolan.Pair   // the host, as the machine sees it
	life      context.Context // of connections
	log       *slog.Logger
}

// newForwarding makes the directory of listeners; Run of its table opens them.
func (d *daemon) newForwarding(ctx context.Context, allowHost func(portolan.Flow) error) (*forwarding, error) {
	log := d.Log.With("part", "forwards")
	table := forwardTable(d.Profile, os.Getenv("DOCKER_HOST"))
	f := &forwarding{
		table:     table,
		agents:    hostservice.ReadEnvironment(os.Getenv, os.Getuid()),
		chosen:    func() string { return d.values.Load().SSHAgent },
		allowHost: allowHost, deputy: d.deputy, back: d.link().Host(), life: ctx, log: log,
	}
	far := agent.Far{SharedDir: d.Profile.SharedDir()}
	table.Far, table.Check, table.Log = far, f.checkHost, log
	table.Host = &hostservice.Listeners{Open: f.open, Gone: f.gone, Log: log, Serve: func(ctx context.Context, on hostservice.Endpoint, conn datapath.Conn) {
		f.toMachine(ctx, far, on, conn)
	}}
	if err := os.MkdirAll(f.table.Places.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	if err := table.Load(); err != nil {
		log.Warn("file of forwards is bad", "err", err)
	}
	return f, nil
}

// forwardTable is the profile's list, as it is kept.
func forwardTable(p profile.Profile, dockerHost string) *hostservice.Table {
	return &hostservice.Table{
		File: filepath.Join(p.StateDir, "forwards.json"), Write: spec.WriteFile,
		Places: hostservice.Places{Dir: p.ForwardDir(), Guard: hostservice.HostGuard(p.RunDir, dockerHost)},
	}
}

// open listens on the host, for the daemon's own user and root where it can tell.
func (f *forwarding) open(e hostservice.Endpoint) (net.Listener, error) {
	if e.Network == "tcp" {
		l, err := new(net.ListenConfig).Listen(f.life, "tcp", e.Address)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", e, bare(err))
		}
		return l, nil
	}
	l, err := f.openSocket(e.Address)
	if err != nil {
		return nil, err
	}
	return agentlink.OwnersOnly(l, f.log), nil
}

// openSocket has a socket outside of the daemon's own directory made by the deputy.
func (f *forwarding) openSocket(path string) (*net.UnixListener, error) {
	if filepath.Dir(path) == f.table.Places.Dir {
		return listenSocket(path)
	}
	return f.deputy.Listen(f.life, path)
}

// bare is the system's part of an error of package net.
func bare(err error) error {
	if number, ok := errors.AsType[unix.Errno](err); ok {
		return number
	}
	return err
}

func (f *forwarding) gone(e hostservice.Endpoint) {
	if e.Network != "unix" || filepath.Dir(e.Address) == f.table.Places.Dir {
		return // closing removed it
	}
	if err := f.deputy.Unlisten(f.life, e.Address); err != nil {
		f.log.Warn("remove socket", "listener", e, "err", err)
	}
}

// toMachine carries one connection of the host's to its target in the machine.
func (f *forwarding) toMachine(ctx context.Context, far agent.Far, on hostservice.Endpoint, conn datapath.Conn) {
	forward, ok := f.table.Find(hostservice.Host, on)
	if !ok {
		_ = conn.Close()
		return
	}
	stream, err := far.Dial(ctx, forward.To)
	if err != nil {
		f.log.Warn("forward leads nowhere", "listener", on, "err", err)
		_ = conn.Close()
		return
	}
	relay.TCP(ctx, conn, stream)
}

// Listeners is agentlink.Forwarder's.
func (f *forwarding) Listeners() []string {
	names := []string{}
	for _, e := range f.table.Listens(hostservice.Machine) {
		names = append(names, e.String())
	}
	return names
}

// Forward is agentlink.Forwarder's: what the machine names is a listener, where
// it leads is decided here.
func (f *forwarding) Forward(ctx context.Context, listener string, accept func() (*net.UnixConn, error)) error {
	target, err := f.reach(ctx, listener)
	if err != nil {
		f.log.Warn("forward leads nowhere", "listener", listener, "err", err)
		return err
	}
	stream, err := accept()
	if err != nil {
		return errors.Join(err, target.Close())
	}
	relay.TCP(ctx, stream, target)
	return nil
}

func (f *forwarding) reach(ctx context.Context, listener string) (datapath.Conn, error) {
	e, err := hostservice.ParseEndpoint(listener)
	if err != nil {
		return nil, err
	}
	if e == hostservice.SSHAgent {
		conn, _, _, err := f.dialAgent(ctx)
		return conn, err
	}
	forward, ok := f.table.Find(hostservice.Machine, e)
	if !ok {
		return nil, fmt.Errorf("%s leads nowhere; portolan forward ls lists what does", e)
	}
	return f.dial(ctx, forward.To)
}

// dial connects to something on the host. A socket that belongs to another user
// is none of root's without capabilities: the deputy has them.
func (f *forwarding) dial(ctx context.Context, to hostservice.Endpoint) (datapath.Conn, error) {
	if err := f.allow(to); err != nil {
		return nil, err
	}
	conn, err := hostservice.Dial(ctx, to, f.table.Places.Guard)
	if errors.Is(err, os.ErrPermission) && to.Network == "unix" && os.Geteuid() == 0 {
		var file *os.File
		if file, err = f.deputy.Connect(ctx, to.Address); err == nil {
			conn, err = net.FileConn(file)
			_ = file.Close()
		}
	}
	if err != nil {
		return nil, err
	}
	stream, ok := conn.(datapath.Conn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("connect to %s: %T", to, conn), conn.Close())
	}
	return stream, nil
}

// checkHost says why no forward may lead to a place on the host.
func (f *forwarding) checkHost(ctx context.Context, to hostservice.Endpoint) error {
	if err := f.allow(to); err != nil {
		return err
	}
	return f.table.Places.Guard.Check(ctx, to)
}

// allow asks whether the host's loopback is open, where that is meant.
func (f *forwarding) allow(to hostservice.Endpoint) error {
	if addr := to.AddrPort(); addr.IsValid() && (addr.Addr().IsLoopback() || addr.Addr().IsUnspecified()) {
		return f.allowHost(portolan.Flow{Proto: portolan.TCP, Dst: addr})
	}
	return nil
}

// dialAgent tries where the user's ssh-agent may be, in order, until one lists its
// keys: a process that has stopped still accepts, and its client would wait forever.
func (f *forwarding) dialAgent(ctx context.Context) (agent datapath.Conn, keys int, tried []api.SSHAgentTry, err error) {
	where := f.agents
	if newer := f.authSock.Load(); newer != nil {
		where.AuthSock = *newer
	}
	tried = []api.SSHAgentTry{}
	for _, c := range where.Candidates(f.chosen()) {
		agent, keys, err = f.askAgent(ctx, c.Path)
		if err == nil {
			return agent, keys, append(tried, api.SSHAgentTry{Path: c.Path, Source: c.Source}), nil
		}
		tried = append(tried, api.SSHAgentTry{Path: c.Path, Source: c.Source, Error: err.Error()})
	}
	if f.chosen() == hostservice.NoAgent {
		return nil, 0, tried, fmt.Errorf("reach ssh-agent: setting %s is %s", settings.KeySSHAgent, hostservice.NoAgent)
	}
	return nil, 0, tried, fmt.Errorf("reach ssh-agent: none of %d places has one that answers; portolan ssh-agent shows them", len(tried))
}

// askAgent connects to an ssh-agent that answers.
func (f *forwarding) askAgent(ctx context.Context, path string) (agent datapath.Conn, keys int, err error) {
	agent, err = f.dial(ctx, hostservice.Endpoint{Network: "unix", Address: path})
	if err != nil {
		return nil, 0, err
	}
	if keys, err = hostservice.CountKeys(agent); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("%s: %w", path, err), agent.Close())
	}
	return agent, keys, nil
}

// agentStatus is what `portolan ssh-agent` shows.
func (f *forwarding) agentStatus(ctx context.Context) api.SSHAgent {
	s := api.SSHAgent{Socket: hostservice.SSHAgent.Address, Closed: f.chosen() == hostservice.NoAgent}
	agent, keys, tried, err := f.dialAgent(ctx)
	s.Tried = tried
	if err != nil {
		return s
	}
	_ = agent.Close()
	s.Path, s.Keys = tried[len(tried)-1].Path, keys
	return s
}

// serveForwards adds the part of the control API. The services that it asks for
// start after the API does.
func (d *daemon) serveForwards(mux *http.ServeMux) {
	serve := func(pattern string, do func(*forwarding, *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			f := d.forwarding.Load()
			if f == nil {
				answer(w, http.StatusServiceUnavailable, map[string]string{"error": "the machine is starting; try again in a moment"}, d.Log)
				return
			}
			result, err := do(f, r)
			if err != nil {
				answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()}, d.Log)
				return
			}
			answer(w, http.StatusOK, result, d.Log)
		})
	}
	serve("GET /v1/forwards", func(f *forwarding, _ *http.Request) (any, error) { return f.listAll(), nil })
	serve("POST /v1/forwards", func(f *forwarding, r *http.Request) (any, error) {
		forward, err := f.request(r)
		if err == nil {
			err = f.table.Add(r.Context(), f.life, forward)
		}
		return shownForward(forward, nil), err
	})
	serve("DELETE /v1/forwards", func(f *forwarding, r *http.Request) (any, error) {
		forward, err := f.request(r)
		if err == nil {
			err = f.table.Remove(r.Context(), f.life, forward.From, forward.Listen)
		}
		return struct{}{}, err
	})
	serve("GET /v1/ssh-agent", func(f *forwarding, r *http.Request) (any, error) { return f.agentStatus(r.Context()), nil })
	serve("POST /v1/ssh-agent", func(f *forwarding, r *http.Request) (any, error) {
		var hint api.SSHAgentHint
		if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxPortRequest)).Decode(&hint); err != nil {
			return nil, fmt.Errorf("read request: %w", err)
		}
		f.authSock.Store(&hint.AuthSock)
		return struct{}{}, nil
	})
}

// request reads a forward; a removal's needs no target.
func (f *forwarding) request(r *http.Request) (hostservice.Forward, error) {
	var asked api.Forward
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxPortRequest)).Decode(&asked); err != nil {
		return hostservice.Forward{}, fmt.Errorf("read request: %w", err)
	}
	listen, err := hostservice.ParseEndpoint(asked.Listen)
	forward := hostservice.Forward{From: hostservice.Side(asked.From), Listen: listen}
	if err == nil && r.Method != http.MethodDelete {
		forward.To, err = hostservice.ParseEndpoint(asked.To)
	}
	if err != nil {
		return forward, err
	}
	if forward.From == hostservice.Host && f.back.Has(forward.To.AddrPort().Addr()) {
		return forward, fmt.Errorf("connect to %s: in the machine that is this host itself, by way of which %w", forward.To, hostservice.ErrLoop)
	}
	return f.table.Places.Place(forward)
}

func (f *forwarding) listAll() api.Forwards {
	list, errs := f.table.List()
	shown := api.Forwards{Forwards: []api.Forward{}}
	for i, forward := range list {
		shown.Forwards = append(shown.Forwards, shownForward(forward, errs[i]))
	}
	if err := f.table.Bad(); err != nil {
		shown.Problem = err.Error()
	}
	return shown
}

func shownForward(f hostservice.Forward, err error) api.Forward {
	shown := api.Forward{From: string(f.From), Listen: f.Listen.String(), To: f.To.String()}
	if err != nil {
		shown.Error = err.Error()
	}
	return shown
}
