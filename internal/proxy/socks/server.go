package socks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/relay"
)

// The bounds.
const (
	maxClients   = 1024
	askTimeout   = 30 * time.Second // for greeting and request together
	reachTimeout = 28 * time.Second // for all addresses of a name
	acceptPause  = time.Second
)

// Config is what Serve needs. All of it is required.
type Config struct {
	// Dial connects to a container.
	Dial func(ctx context.Context, dst netip.AddrPort) (datapath.Conn, error)
	// DialUDP returns a connected socket to a container.
	DialUDP func(ctx context.Context, dst netip.AddrPort) (net.Conn, error)
	// Lookup returns the addresses of a container's name, nil for a name that
	// nobody has.
	Lookup func(name string) []netip.Addr
	// Allowed reports whether an address may be reached.
	Allowed func(addr netip.Addr) bool
	// Ports gets the UDP ports of associations.
	Ports *Ports
	Log   *slog.Logger
}

// Ports are the UDP ports on which clients are served now. The first datagram
// says who the client is, so nobody else may be let there. The zero value is
// ready.
type Ports struct{ open sync.Map }

// Has reports whether a port is one of them.
func (p *Ports) Has(port uint16) bool {
	_, ok := p.open.Load(port)
	return ok
}

// Serve answers clients of ln until ctx ends; then it closes ln, waits for all
// that it started, and returns nil.
func Serve(ctx context.Context, ln net.Listener, cfg Config) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	places := make(chan struct{}, maxClients)
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			// Out of descriptors, or the client is gone again: the next may do.
			cfg.Log.Warn("accept SOCKS client", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			cfg.Log.Warn("too many SOCKS clients", "most", maxClients)
			_ = conn.Close()
			continue
		}
		clients.Go(func() {
			defer func() { <-places }()
			s := session{cfg: cfg, conn: conn.(datapath.Conn)}
			if err := s.serve(ctx); err != nil {
				cfg.Log.Debug("SOCKS client", "client", conn.RemoteAddr(), "error", err)
			}
		})
	}
}

// session is one client's connection.
type session struct {
	cfg  Config
	conn datapath.Conn
}

// serve reads what the client wants, and does it. It closes the connection.
func (s session) serve(ctx context.Context) error {
	closeConn := sync.OnceFunc(func() { _ = s.conn.Close() })
	defer closeConn()
	stop := context.AfterFunc(ctx, closeConn)
	defer stop()
	if err := s.conn.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return err
	}
	plain, err := readGreeting(s.conn)
	if err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	if !plain {
		return errors.Join(errors.New("the client insists on a login"), s.write([]byte{version, methodBad}))
	}
	if err := s.write([]byte{version, methodNone}); err != nil {
		return err
	}
	command, to, err := readRequest(s.conn)
	if errors.Is(err, errAddressType) {
		return errors.Join(err, s.refuse(replyAddressType))
	}
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if err := s.conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	switch command {
	case commandConnect:
		return s.connect(ctx, to)
	case commandAssociate:
		return s.associate(ctx, to)
	}
	return errors.Join(fmt.Errorf("command %d", command), s.refuse(replyCommand))
}

func (s session) write(b []byte) error {
	_, err := s.conn.Write(b)
	return err
}

// refuse answers a request with an error.
func (s session) refuse(code byte) error { return s.write(reply(code, netip.AddrPort{})) }

// connect carries a stream.
func (s session) connect(ctx context.Context, to target) error {
	far, err := s.dial(ctx, to)
	if err != nil {
		return errors.Join(err, s.refuse(codeOf(err)))
	}
	if err := s.write(reply(replyOK, addrPort(far.LocalAddr()))); err != nil {
		return errors.Join(err, far.Close())
	}
	relay.TCP(ctx, s.conn, far)
	return nil
}

// Why a destination is not reached.
var (
	errNotAllowed = errors.New("not an address of a container")
	errNoName     = errors.New("no container has this name")
)

// addrs are the addresses of a destination that may be reached.
func (s session) addrs(to target) ([]netip.Addr, error) {
	found := []netip.Addr{to.addr}
	if !to.addr.IsValid() {
		if found = s.cfg.Lookup(to.name); len(found) == 0 {
			return nil, fmt.Errorf("%q: %w", to.name, errNoName)
		}
	}
	for _, addr := range found {
		if !s.cfg.Allowed(addr) {
			return nil, fmt.Errorf("%s: %w", addr, errNotAllowed)
		}
	}
	return found, nil
}

// dial tries a destination's addresses, one after the other.
func (s session) dial(ctx context.Context, to target) (datapath.Conn, error) {
	addrs, err := s.addrs(to)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	for i, addr := range addrs {
		ctx, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(len(addrs)-i))
		var conn datapath.Conn
		conn, err = s.cfg.Dial(ctx, netip.AddrPortFrom(addr, to.port))
		cancel()
		if err == nil {
			return conn, nil
		}
	}
	return nil, err // the last one's: clients show one code
}

// codeOf turns an error into a reply.
func codeOf(err error) byte {
	switch {
	case errors.Is(err, errNotAllowed):
		return replyNotAllowed
	case errors.Is(err, errNoName):
		return replyHost
	}
	switch datapath.Classify(err) {
	case datapath.Refused:
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
			return replyFailed
		}
		return replyRefused
	case datapath.NetUnreachable:
		return replyNetwork
	case datapath.Prohibited:
		return replyNotAllowed
	}
	return replyHost
}

func addrPort(addr net.Addr) netip.AddrPort {
	a, ok := addr.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// drain waits until the client closes its connection.
func (s session) drain() { _, _ = io.Copy(io.Discard, s.conn) }
