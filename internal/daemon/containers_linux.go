package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

// container is what publishing wants to know of one.
type container struct {
	ID       string
	Names    []string
	State    string
	Labels   map[string]string
	Networks struct {
		Networks map[string]struct {
			IPAddress         netip.Addr
			GlobalIPv6Address netip.Addr
		}
	} `json:"NetworkSettings"`
}

// name is the one that docker ps shows.
func (c container) name() string {
	for _, name := range c.Names {
		if name = strings.TrimPrefix(name, "/"); !strings.Contains(name, "/") { // no alias of a link
			return name
		}
	}
	return c.ID
}

// addrs are the container's addresses, one of each family first where it has
// several networks: Go's order of maps is no order, so the lowest counts.
func (c container) addrs() []netip.Addr {
	var found []netip.Addr
	for _, n := range c.Networks.Networks {
		for _, a := range []netip.Addr{n.IPAddress, n.GlobalIPv6Address} {
			if a.IsValid() {
				found = append(found, a)
			}
		}
	}
	return found
}

// containers asks the engine about its containers. Several that ask at the same
// time share an answer.
type containers struct {
	socket string

	mu      sync.Mutex // guards the three below
	next    *listing   // has not been asked yet
	hearing map[int]context.CancelFunc
	heard   int        // counts those
	busy    sync.Mutex // held while the engine is asked
}

// listing is one answer of the engine.
type listing struct {
	once sync.Once
	all  []container
	err  error
}

// list returns all containers, as of the call or later.
func (c *containers) list(ctx context.Context) ([]container, error) {
	c.mu.Lock()
	if c.next == nil {
		c.next = &listing{}
	}
	mine := c.next
	c.mu.Unlock()
	mine.once.Do(func() {
		c.busy.Lock()
		defer c.busy.Unlock()
		c.mu.Lock()
		c.next = nil // who asks from now on wants a newer one
		c.mu.Unlock()
		// Others wait for the answer, so it does not end with the first of them.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statusTimeout)
		defer cancel()
		mine.err = askEngine(ctx, c.socket, "/containers/json?all=1", func(body io.Reader) error {
			return json.NewDecoder(body).Decode(&mine.all)
		})
	})
	return mine.all, mine.err
}

// startOf asks the engine when a container was started.
func startOf(ctx context.Context, socket string, c container) (time.Time, error) {
	var details struct{ State struct{ StartedAt time.Time } }
	err := askEngine(ctx, socket, "/containers/"+url.PathEscape(c.ID)+"/json", func(body io.Reader) error {
		return json.NewDecoder(body).Decode(&details)
	})
	return details.State.StartedAt, err
}

// byAddr finds containers by their addresses.
func (c *containers) byAddr(ctx context.Context) (map[netip.Addr]container, error) {
	all, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	found := map[netip.Addr]container{}
	for _, one := range all {
		for _, addr := range one.addrs() {
			found[addr] = one
		}
	}
	return found, nil
}

// labels is publish.Config.Labels.
func (c *containers) labels(ctx context.Context, addr netip.Addr) (map[string]string, error) {
	found, err := c.byAddr(ctx)
	if err != nil {
		return nil, err
	}
	one, ok := found[addr]
	if ok && one.Labels == nil {
		one.Labels = map[string]string{}
	}
	return one.Labels, nil
}

// nameOf is publish.Config.Name.
func (c *containers) nameOf(ctx context.Context, addr netip.Addr) string {
	found, err := c.byAddr(ctx)
	if one, ok := found[addr]; ok && err == nil {
		return one.name()
	}
	return ""
}

// events calls use for each event of a container until ctx ends or the engine
// does, and once when the engine has begun to tell.
func (c *containers) events(ctx context.Context, use func()) error {
	ctx, hangUp := context.WithCancel(ctx)
	defer c.hear(hangUp)()
	filters := url.QueryEscape(`{"type":["container","network"]}`)
	return askEngine(ctx, c.socket, "/events?filters="+filters, func(body io.Reader) error {
		use()
		for events := json.NewDecoder(body); ; {
			var event struct{ Action string }
			if err := events.Decode(&event); err != nil {
				return err
			}
			switch event.Action {
			case "start", "die", "destroy", "rename", "connect", "disconnect":
				use()
			}
		}
	})
}

// hear notes what ends an answer that has no end of its own, until the result is
// called, which ends it, too.
func (c *containers) hear(hangUp context.CancelFunc) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hearing == nil {
		c.hearing = map[int]context.CancelFunc{}
	}
	c.heard++
	number := c.heard
	c.hearing[number] = hangUp
	return func() {
		hangUp()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.hearing, number)
	}
}

// hangUp ends what events is told. It begins again after eventsPause.
func (c *containers) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, hangUp := range c.hearing {
		hangUp()
	}
}

// askEngine makes one GET request and hands the answer's body to read.
func askEngine(ctx context.Context, socket, path string, read func(io.Reader) error) error {
	client := http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dialEngine(ctx, socket) },
		DisableKeepAlives: true,
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, http.NoBody)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the engine: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the engine for %s: %s", path, response.Status)
	}
	return read(io.LimitReader(response.Body, maxAnswer))
}
