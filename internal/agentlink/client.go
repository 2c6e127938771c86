package agentlink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/portolan"
)

// Client is the agent's end. Its methods are safe for concurrent use. A refusal
// by the daemon is an *Error; every other error means that it did not answer.
type Client struct {
	socket string
	log    *slog.Logger
	http   *http.Client

	mu      sync.Mutex         // guards the one below
	unwatch context.CancelFunc // ends the watch that stands; nil without one
}

// The pauses between attempts to reach a daemon that is not there.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// NewClient returns a client for the daemon's socket. It does not connect.
func NewClient(socket string, log *slog.Logger) *Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		DisableCompression: true,
		IdleConnTimeout:    30 * time.Second,
	}
	return &Client{socket: socket, log: log, http: &http.Client{Transport: transport}}
}

// Publish asks for a host listener and returns when it stands. It waits for a
// daemon that is just starting, as long as ctx allows.
func (c *Client) Publish(ctx context.Context, b portolan.Binding) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := c.send(ctx, http.MethodPost, pathPublish, b)
		var refusal *Error
		if err == nil || errors.As(err, &refusal) {
			return err
		}
		if sleep(ctx, pause) != nil {
			return err
		}
	}
}

// Renew says that b is published still.
func (c *Client) Renew(ctx context.Context, b portolan.Binding) error {
	return c.send(ctx, http.MethodPost, pathRenew, b)
}

// Unpublish returns when the host's port is free, at once without a daemon.
func (c *Client) Unpublish(ctx context.Context, b portolan.Binding) error {
	err := c.send(ctx, http.MethodPost, pathUnpublish, b)
	if absent(err) {
		return nil // its listeners went with it
	}
	return err
}

// Release says that the engine which published b is gone; the daemon keeps the
// port for a while.
func (c *Client) Release(ctx context.Context, b portolan.Binding) error {
	return c.send(ctx, http.MethodPost, pathRelease, b)
}

// SetEngine tells the engine's state.
func (c *Client) SetEngine(ctx context.Context, e api.Engine) error {
	return c.send(ctx, http.MethodPut, pathEngine, e)
}

// SetNetworks tells the engine's subnets and the machine's addresses.
func (c *Client) SetNetworks(ctx context.Context, networks []netip.Prefix) error {
	if networks == nil {
		networks = []netip.Prefix{}
	}
	return c.send(ctx, http.MethodPut, pathNetworks, networks)
}

// Run keeps a watch on the daemon until ctx ends. Each time one stands it calls
// connected, whose ctx ends with that watch and which must return then; connected
// pushes all that the daemon should know.
func (c *Client) Run(ctx context.Context, connected func(ctx context.Context)) {
	defer c.http.CloseIdleConnections()
	pause := firstPause
	for {
		stood, err := c.watch(ctx, connected)
		if ctx.Err() != nil {
			return
		}
		if stood {
			pause = firstPause
		}
		c.log.Debug("no watch on the daemon", "error", err)
		if sleep(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, lastPause)
	}
}

// Resync drops the watch that stands, so that everything is pushed anew. It is
// for an agent that can't know whether its last message arrived.
func (c *Client) Resync() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unwatch != nil {
		c.unwatch()
	}
}

// watch holds one watch to its end and reports whether it stood.
func (c *Client) watch(ctx context.Context, connected func(ctx context.Context)) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, pathWatch, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }()
	c.setUnwatch(cancel)
	defer c.setUnwatch(nil)
	c.log.Info("daemon connected")
	var pushing sync.WaitGroup
	pushing.Go(func() { connected(ctx) })
	_, err = io.Copy(io.Discard, resp.Body)
	cancel()
	pushing.Wait()
	c.log.Info("daemon gone")
	return true, err
}

func (c *Client) setUnwatch(cancel context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unwatch = cancel
}

// send makes one request whose answer has no content.
func (c *Client) send(ctx context.Context, method, path string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode %T for the daemon: %w", body, err)
	}
	resp, err := c.do(ctx, method, path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)) // keeps the connection
	return resp.Body.Close()
}

// do makes one request; an answer that is no success becomes an *Error.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://daemon"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request %s: %w", path, err)
	}
	// Every request may be repeated: net/http does it for a connection that a
	// restarted daemon closed. The empty value says so without being sent.
	req.Header["Idempotency-Key"] = []string{}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unanswered(err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	refusal := &Error{Status: resp.StatusCode}
	var answer errorBody
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&answer); err != nil || answer.Error == "" {
		answer.Error = fmt.Sprintf("ask the daemon for %s: status %d", path, resp.StatusCode)
	}
	refusal.Text = answer.Error
	return nil, refusal
}

// unanswered words the error of a daemon that did not answer.
func (c *Client) unanswered(err error) error {
	cause := err
	var number syscall.Errno
	switch {
	case errors.As(err, &number):
		cause = number
	case errors.Is(err, context.DeadlineExceeded):
		cause = context.DeadlineExceeded
	}
	return fmt.Errorf("ask the portolan daemon on %s: %w; `portolan status` on the host tells more", c.socket, cause)
}

// absent reports whether nobody listens on the daemon's socket.
func absent(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
