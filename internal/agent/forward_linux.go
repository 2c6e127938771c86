package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/agentlink"
	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/guest"
	"github.com/portolan-net/portolan/internal/hostservice"
	"github.com/portolan-net/portolan/internal/relay"
)

// forwards is the machine's side of package hostservice.
type forwards struct {
	daemon    *agentlink.Client
	kept      *guest.Kept
	listeners *hostservice.Listeners
	life      context.Context // of connections
	log       *slog.Logger

	mu sync.Mutex // held while a list is put in force, from the asking on
}

// newForwards has the sockets of the earlier agent and the ssh-agent's at once,
// whether or not a daemon is there to serve them.
func newForwards(ctx context.Context, daemon *agentlink.Client, log *slog.Logger) (*forwards, error) {
	kept, err := guest.OpenKept()
	if err != nil {
		return nil, err
	}
	f := &forwards{daemon: daemon, kept: kept, life: ctx, log: log}
	f.listeners = &hostservice.Listeners{Open: f.open, Gone: f.gone, Serve: f.serve, Log: log}
	return f, f.set(kept.Names())
}

// socketMode lets every user of a container connect: who may is decided by whom a
// socket is mounted for, which the holder of the engine's socket does.
const socketMode = 0o666

// open takes the earlier agent's listener where there is one: containers have
// its file.
func (f *forwards) open(e hostservice.Endpoint) (net.Listener, error) {
	if e.Network == "tcp" {
		return new(net.ListenConfig).Listen(f.life, "tcp", e.Address)
	}
	kept, err := f.kept.Take(e.String())
	if err != nil {
		return nil, fmt.Errorf("take over %s: %w", e, err)
	}
	if kept != nil {
		if _, err := os.Lstat(e.Address); err == nil {
			return kept, nil
		}
		_ = kept.Close() // somebody has removed the file, by which alone it is found
	}
	dir, err := openPlace(e.Address)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	path := within(dir, e.Address)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it outlives this agent
	if err := errors.Join(openToAll(path), f.kept.Keep(e.String(), l)); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(path))
	}
	return l, nil
}

// machineRun holds the sockets of forwards.
const machineRun = "/run"

// openPlace opens the directory of a socket below machineRun, and makes what is
// missing of it. No link and no mount is followed: a container for which a
// directory is mounted may have made the one, and the others are the host's.
func openPlace(path string) (*os.File, error) {
	rest, ok := strings.CutPrefix(path, machineRun+"/")
	if !ok {
		return nil, fmt.Errorf("%s is not below %s", path, machineRun)
	}
	names := strings.Split(rest, "/")
	fd, err := unix.Open(machineRun, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", machineRun, err)
	}
	how := unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	for _, name := range names[:len(names)-1] {
		next, err := unix.Openat2(fd, name, &how)
		if errors.Is(err, unix.ENOENT) {
			if err = unix.Mkdirat(fd, name, 0o755); err == nil {
				next, err = unix.Openat2(fd, name, &how)
			}
		}
		_ = unix.Close(fd)
		if errors.Is(err, unix.EXDEV) {
			err = errors.New("it is the host's; choose another one, such as /run/host-services")
		}
		if err != nil {
			return nil, fmt.Errorf("open directory %q of %s: %w", name, path, err)
		}
		fd = next
	}
	return os.NewFile(uintptr(fd), filepath.Dir(path)), nil
}

// within is how a file is named by its directory's descriptor.
func within(dir *os.File, path string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
}

// openToAll gives a socket its mode, and nothing else: a container for which the
// directory is mounted may have put a link in its place.
func openToAll(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if now.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("open %s to containers: somebody has put something else in its place", path)
	}
	return os.Chmod("/proc/self/fd/"+strconv.Itoa(fd), socketMode)
}

func (f *forwards) gone(e hostservice.Endpoint) {
	if e.Network != "unix" {
		return
	}
	err := f.kept.Drop(e.String())
	if dir, openErr := openPlace(e.Address); openErr != nil {
		err = errors.Join(err, openErr)
	} else {
		err = errors.Join(err, os.Remove(within(dir, e.Address)), dir.Close())
	}
	if err != nil {
		f.log.Warn("remove socket", "listener", e, "err", err)
	}
}

// serve carries one connection of the machine's to the host. Where there is
// nothing to carry it to, its end is the answer.
func (f *forwards) serve(ctx context.Context, on hostservice.Endpoint, conn datapath.Conn) {
	stream, err := f.daemon.Forward(ctx, on.String())
	if err != nil {
		if _, refused := errors.AsType[*agentlink.Error](err); !refused { // the daemon's log tells of that
			f.log.Warn("forward leads nowhere", "listener", on, "err", err)
		}
		_ = conn.Close()
		return
	}
	relay.TCP(ctx, conn, stream)
}

// set puts a list in force, besides the ssh-agent.
func (f *forwards) set(listeners []string) error {
	want := []hostservice.Endpoint{hostservice.SSHAgent}
	var errs []error
	for _, text := range listeners {
		e, err := hostservice.ParseEndpoint(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		want = append(want, e)
	}
	for e, err := range f.listeners.Set(f.life, want) {
		errs = append(errs, fmt.Errorf("listen on %s in the machine: %w", e, err))
	}
	return errors.Join(errs...)
}

// pull asks a daemon that has just come for its list.
func (f *forwards) pull(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	listeners, err := f.daemon.Listeners(ctx)
	if err == nil {
		err = f.set(listeners)
	}
	if err != nil && ctx.Err() == nil {
		f.log.Warn("follow forwards", "err", err)
	}
}

// routes are what the daemon asks for: POST /v1/listeners with the list that the
// agent is to have; POST /v1/dial?to=ENDPOINT for a stream to something in the
// machine; POST /v1/check?to=ENDPOINT for whether one would be allowed.
func (f *forwards) routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/listeners", func(w http.ResponseWriter, r *http.Request) {
		var listeners []string
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxConfig)).Decode(&listeners)
		if err == nil {
			f.mu.Lock()
			defer f.mu.Unlock()
			err = f.set(listeners)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /v1/check", func(w http.ResponseWriter, r *http.Request) {
		e, err := hostservice.ParseEndpoint(r.URL.Query().Get("to"))
		if err == nil {
			err = hostservice.MachineGuard().Check(r.Context(), e)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
		}
	})
	mux.HandleFunc("POST /v1/dial", f.answerDial)
}

// answerDial is a stream from the host to the machine.
func (f *forwards) answerDial(w http.ResponseWriter, r *http.Request) {
	e, err := hostservice.ParseEndpoint(r.URL.Query().Get("to"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	dialed, err := hostservice.Dial(r.Context(), e, hostservice.MachineGuard())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	target, ok := dialed.(datapath.Conn)
	if !ok {
		_ = dialed.Close()
		http.Error(w, fmt.Sprintf("dial %s: %T", e, dialed), http.StatusInternalServerError)
		return
	}
	stream, err := agentlink.AcceptStream(w)
	if err != nil {
		_ = target.Close()
		return
	}
	relay.TCP(r.Context(), stream, target)
}
