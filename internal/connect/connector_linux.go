package connect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/guest"
	"github.com/portolan-net/portolan/internal/machine"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/router"
)

// Target is the machine to connect to, and whose it is.
type Target struct {
	Profile profile.Profile `json:"profile"`
	UID     int             `json:"uid"`
	Link    portolan.Link   `json:"link"`
}

// answer is the connector's one line to who started it.
type answer struct {
	api.Connection
	Error string `json:"error,omitempty"`
}

// connector is the process that keeps the host connected.
type connector struct {
	Target

	log    *slog.Logger
	ready  io.WriteCloser // nil once it has been told
	logged string         // what the log said last of networks
}

// Run is the connector's life: it reads a Target from in, writes one line to
// ready when the host is connected, and returns when the connection or the
// machine has ended. Nothing is left on the host then.
func Run(ctx context.Context, in io.Reader, ready io.WriteCloser) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	c := &connector{ready: ready, log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	err := json.NewDecoder(in).Decode(&c.Target)
	if err == nil {
		err = c.keep(ctx)
	}
	c.tell(answer{Error: fmt.Sprint(err)})
	return err
}

func (c *connector) tell(a answer) {
	if c.ready != nil {
		_ = json.NewEncoder(c.ready).Encode(a) // whoever asked may have gone
		_ = c.ready.Close()
		c.ready = nil
	}
}

// The next helper is there soon, if there is to be one: see machine.Resume. A
// session that lasted as long is not counted among the tries.
const (
	helperPatience = 10 * time.Second
	helperPoll     = 50 * time.Millisecond
)

// keep connects, and again when the helper was replaced.
func (c *connector) keep(ctx context.Context) error {
	for {
		err := c.session(ctx)
		for end := time.Now().Add(helperPatience); c.again(ctx, err) && time.Now().Before(end); {
			time.Sleep(helperPoll)
			err = c.session(ctx)
		}
		if !errors.Is(err, errHelper) || !c.again(ctx, err) {
			return err
		}
	}
}

// errHelper is a session that stood until the helper died.
var errHelper = errors.New("router helper died")

// again reports whether another session may succeed.
func (c *connector) again(ctx context.Context, err error) bool {
	if err == nil || ctx.Err() != nil || c.ready != nil {
		return false
	}
	record, err := machine.LoadRecord(c.Profile)
	return err == nil && record.Init.Alive()
}

// session is one connection, from its beginning to its end: nil when that was
// asked for or the machine has ended.
func (c *connector) session(ctx context.Context) (err error) {
	record, err := machine.LoadRecord(c.Profile)
	if err != nil {
		return err
	}
	conn, err := dialAs(c.UID, c.Profile.HelperSocket())
	if err != nil {
		return fmt.Errorf("connect to router helper: %w", err)
	}
	outside, err := router.Connect(conn)
	if err != nil {
		return err
	}
	defer outside.Close()
	end, err := addEnd(outside, c.Profile, c.Link)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end.remove()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	followed := make(chan error, 1)
	go func() { followed <- c.follow(ctx, end, record.Init.PID) }()
	ended := make(chan error, 1)
	go func() { ended <- outside.Wait() }()
	select {
	case err = <-followed:
		return err // nil when ctx has ended
	case err = <-ended:
	}
	cancel()
	if followErr := <-followed; followErr != nil {
		c.log.Debug("networks are not followed any more", "error", followErr)
	}
	c.log.Info("connection ended", "interface", end.name, "why", err)
	if errors.Is(err, router.ErrEnded) || !record.Init.Alive() {
		return nil
	}
	return errHelper
}

// follow keeps the host's routes in step until ctx ends.
func (c *connector) follow(ctx context.Context, end *hostEnd, init int) error {
	networks := make(chan []netip.Prefix)
	watched, guarded := make(chan error, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	routes, err := c.subscribe(ctx)
	if err != nil {
		return err
	}
	var again <-chan time.Time
	go func() { watched <- c.watch(ctx, init, networks) }()
	go func() { guarded <- end.watchForwarding(ctx) }()
	var latest []netip.Prefix
	var open bool
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-watched:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch the machine's networks: %w", err)
		case err := <-guarded:
			if ctx.Err() != nil {
				return nil
			}
			if index, _, findErr := Find(c.Profile); findErr == nil && index != end.index {
				guarded = nil // the interface has gone, and its sysctl with it: the session is about to end
				continue
			}
			return err
		case latest = <-networks:
		case _, open = <-routes:
			if !open {
				// Changes were lost: thousands at once, a VPN's say, are more than the kernel keeps.
				routes, again = nil, time.After(subscribeAgain)
				continue
			}
		case <-again:
			if routes, err = c.subscribe(ctx); err != nil {
				return err
			}
		}
		if latest == nil || ctx.Err() != nil {
			continue
		}
		if err := c.steer(end, latest); err != nil {
			return err
		}
	}
}

// subscribeAgain is the pause before another subscription, in which many changes
// at once are mostly over.
const subscribeAgain = 200 * time.Millisecond

// subscribe returns the host's changes of routes, until ctx ends or some were
// lost, which closes the channel.
func (c *connector) subscribe(ctx context.Context) (<-chan netlink.RouteUpdate, error) {
	routes := make(chan netlink.RouteUpdate, 64)
	err := netlink.RouteSubscribeWithOptions(routes, ctx.Done(), netlink.RouteSubscribeOptions{
		ErrorCallback: func(err error) { c.log.Debug("watch routes", "err", err) },
	})
	if err != nil {
		return nil, fmt.Errorf("watch the host's routes: %w", err)
	}
	return routes, nil
}

// watch reports the machine's networks, on a thread in its namespace.
func (c *connector) watch(ctx context.Context, init int, networks chan<- []netip.Prefix) error {
	return inNetwork(init, func() error {
		return guest.WatchNetworks(ctx, func(now []netip.Prefix) {
			select {
			case networks <- now:
			case <-ctx.Done():
			}
		}, c.log)
	})
}

// steer puts the routes right, and tells of them the first time.
func (c *connector) steer(end *hostEnd, networks []netip.Prefix) error {
	use, refused, err := end.steer(networks)
	if c.ready == nil {
		if now := fmt.Sprint(use, refused); now != c.logged {
			c.log.Info("networks", "interface", end.name, "connected", use, "refused", refused)
			c.logged = now
		}
		if err != nil {
			// The interface may be about to go, or the route to come from elsewhere: the next change shows.
			c.log.Warn("follow networks", "err", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if len(use) == 0 {
		return fmt.Errorf("none of the machine's networks can be reached: %s", refused)
	}
	done := answer{Connection: api.Connection{Interface: end.name, Address: end.own, Networks: use}}
	for _, r := range refused {
		done.Refused = append(done.Refused, r.String())
	}
	c.tell(done)
	return nil
}

// Disconnect ends the host's connection to the profile's machine, whoever holds
// it, and returns when its interface is gone. There may be none.
func Disconnect(p profile.Profile, uid int) error {
	conn, err := dialAs(uid, p.HelperSocket())
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil // no machine
	}
	if err != nil {
		return fmt.Errorf("connect to router helper: %w", err)
	}
	return router.Disconnect(conn)
}

// dialAs connects to a unix socket as a user: a helper in a user namespace knows
// no other.
func dialAs(uid int, path string) (conn *net.UnixConn, err error) {
	err = asUser(uid, func() error {
		conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: path})
		return err
	})
	return conn, err
}
