package enginesocket

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config is what a Proxy needs.
type Config struct {
	// Engine is the path of the engine's own socket.
	Engine string
	// Extra says what a container or build that is about to be made gets. It is
	// asked for each. nil adds nothing.
	Extra func(context.Context) Extra
	// BeforeSwarm is called before the engine is asked to enter swarm mode. nil does
	// nothing.
	BeforeSwarm func(context.Context)
	// BeforeStart is called before the engine is asked to start a container, or to
	// start it again, with the name or id by which it is asked. nil does nothing.
	BeforeStart func(ctx context.Context, container string)
	Log         *slog.Logger
}

// Proxy carries clients to the engine.
type Proxy struct {
	config Config
	client *http.Client // for questions of our own

	ended chan struct{} // has something when a session has ended
	turn  chan struct{} // has something while a restart waits or runs, which guards told
	told  time.Time     // when the log was last told whom a restart waits for

	mu       sync.Mutex // guards what follows
	sessions map[*session]bool
	held     chan struct{} // closed when requests may go on; nil when they may
	vain     time.Time     // when they were held for nothing
}

// New returns a Proxy. It holds nothing open.
func New(c Config) *Proxy {
	p := &Proxy{config: c, sessions: map[*session]bool{}, ended: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
	p.client = &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx) },
		DisableKeepAlives: true,
	}}
	return p
}

// Serve carries one client's connection until both sides have ended or ctx
// ends, and closes it. Whoever calls it has checked who the client is.
func (p *Proxy) Serve(ctx context.Context, client Conn) {
	s := &session{proxy: p, client: client}
	s.in = bufio.NewReaderSize(stamped{client, &s.said}, bufferSize)
	s.keep(client)
	p.note(s, true)
	defer p.note(s, false)
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	err := s.run(ctx)
	s.close()
	if s.ended != nil {
		<-s.ended
	}
	switch bad := badRequest(""); {
	case err == nil || ctx.Err() != nil || errors.Is(err, net.ErrClosed):
	case errors.As(err, &bad):
		p.config.Log.Info("bad request", "err", err)
	case isDial(err):
		p.config.Log.Warn("reach engine", "err", err)
	default:
		p.config.Log.Debug("client's connection ended", "err", err)
	}
}

// note keeps the list of sessions.
func (p *Proxy) note(s *session, open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if open {
		p.sessions[s] = true
		return
	}
	delete(p.sessions, s)
	select {
	case p.ended <- struct{}{}:
	default:
	}
}

// isDial reports that the engine could not be reached.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// The engine may be about to start again, with another configuration or because
// it died: that takes a second or two, for which a client waits.
const (
	restartTime = 5 * time.Second
	restartLook = 50 * time.Millisecond
)

// dial opens a connection to the engine.
func (p *Proxy) dial(ctx context.Context) (Conn, error) {
	for began := time.Now(); ; {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", p.config.Engine)
		if err == nil {
			return conn.(*net.UnixConn), nil // what a dial of "unix" returns
		}
		absent := errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
		if !absent || time.Since(began) > restartTime {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(restartLook):
		}
	}
}

func (p *Proxy) extra(ctx context.Context) Extra {
	if p.config.Extra == nil {
		return Extra{}
	}
	return p.config.Extra(ctx)
}

// questionTimeout bounds what is asked before a container is made: without an
// answer it is made as well.
const questionTimeout = 5 * time.Second

// maxAnswer bounds what is read of the engine's answers.
const maxAnswer = 16 << 20

// ask makes one GET request to the engine and decodes the answer.
func (p *Proxy) ask(ctx context.Context, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, http.NoBody)
	if err != nil {
		return err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the engine for %s: %s", path, response.Status)
	}
	return json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(v)
}

// imageEnv is what an image sets. One that is not there sets nothing: the engine
// refuses the container.
func (p *Proxy) imageEnv(ctx context.Context, image string) []string {
	var found struct{ Config struct{ Env []string } }
	if image == "" || p.ask(ctx, "/images/"+url.PathEscape(image)+"/json", &found) != nil {
		return nil
	}
	return found.Config.Env
}

// Networks asks the engine for the subnets of all its networks.
func (p *Proxy) Networks(ctx context.Context) ([]netip.Prefix, error) {
	var networks []struct {
		IPAM struct{ Config []struct{ Subnet string } }
	}
	if err := p.ask(ctx, "/networks", &networks); err != nil {
		return nil, err
	}
	var subnets []netip.Prefix
	for _, n := range networks {
		for _, c := range n.IPAM.Config {
			if subnet, err := netip.ParsePrefix(c.Subnet); err == nil {
				subnets = append(subnets, subnet)
			}
		}
	}
	return subnets, nil
}

// Names asks the engine how containers may call each other: by their names, those
// of their compose services, and their addresses.
func (p *Proxy) Names(ctx context.Context) ([]string, error) {
	var containers []struct {
		Names           []string
		Labels          map[string]string
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress, GlobalIPv6Address string }
		}
	}
	if err := p.ask(ctx, "/containers/json?all=1", &containers); err != nil {
		return nil, err
	}
	var names []string
	for _, c := range containers {
		for _, n := range append(c.Names, "/"+c.Labels["com.docker.compose.service"]) {
			if n = strings.TrimPrefix(n, "/"); n != "" && !strings.Contains(n, "/") { // no alias of a link
				names = append(names, n)
			}
		}
		for _, n := range c.NetworkSettings.Networks {
			if n.IPAddress != "" {
				names = append(names, n.IPAddress)
			}
			if n.GlobalIPv6Address != "" {
				names = append(names, n.GlobalIPv6Address, "["+n.GlobalIPv6Address+"]")
			}
		}
	}
	return names, nil
}
