// Package client talks to a running daemon: the typed side of package api's
// control API, over the profile's unix socket. It starts nothing and keeps
// nothing. The CLI and doctor use it.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/profile"
)

// ErrNotRunning is what every method's error wraps when no daemon listens.
var ErrNotRunning = errors.New("portolan is not running")

// maxErrorBody bounds what is read of an error answer.
const maxErrorBody = 4 << 10

// Client is safe for concurrent use.
type Client struct {
	profile profile.Profile
	http    *http.Client
}

// New returns a client of the profile's daemon. It does not connect yet.
func New(p profile.Profile) *Client {
	transport := &http.Transport{
		// One connection for each request: a command makes one or two.
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p.ControlSocket())
		},
	}
	return &Client{profile: p, http: &http.Client{Transport: transport}}
}

// Status asks for the daemon's view of the profile. It asks once more when the
// daemon dies over the answer: then another one is there, or none.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	var status api.Status
	err := c.do(ctx, http.MethodGet, "/v1/status", &status)
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		status = api.Status{}
		err = c.do(ctx, http.MethodGet, "/v1/status", &status)
	}
	if err != nil {
		return api.Status{}, wrap("ask for status", err)
	}
	return status, nil
}

// Ports lists the published ports.
func (c *Client) Ports(ctx context.Context) ([]api.Port, error) {
	var ports []api.Port
	if err := c.do(ctx, http.MethodGet, "/v1/ports", &ports); err != nil {
		return nil, wrap("list ports", err)
	}
	return ports, nil
}

// AddPort publishes a port of a running container.
func (c *Client) AddPort(ctx context.Context, r api.PortRequest) error {
	return c.send(ctx, http.MethodPost, "/v1/ports", r, nil)
}

// RemovePort ends what AddPort published.
func (c *Client) RemovePort(ctx context.Context, r api.PortRequest) error {
	return c.send(ctx, http.MethodDelete, "/v1/ports", r, nil)
}

// Down stops the machine and then the daemon. It returns when the machine is
// gone; the daemon's process may still be about to end.
func (c *Client) Down(ctx context.Context) error {
	if err := c.do(ctx, http.MethodPost, "/v1/down", nil); err != nil {
		return wrap("stop the machine", err)
	}
	return nil
}

// CheckSettings says why the daemon can't do what a text of the settings file
// changes.
func (c *Client) CheckSettings(ctx context.Context, text []byte) error {
	if err := c.send(ctx, http.MethodPost, "/v1/settings/check", string(text), nil); err != nil {
		return wrap("check settings", err)
	}
	return nil
}

// ApplySettings makes the daemon read the settings again and, with restart,
// restart the engine where they need it.
func (c *Client) ApplySettings(ctx context.Context, restart bool) (api.Applied, error) {
	var applied api.Applied
	if err := c.do(ctx, http.MethodPost, fmt.Sprintf("/v1/settings?restart=%t", restart), &applied); err != nil {
		return api.Applied{}, wrap("apply settings", err)
	}
	return applied, nil
}

// Release stops the daemon and leaves its machine to the next one.
func (c *Client) Release(ctx context.Context) error {
	if err := c.do(ctx, http.MethodPost, "/v1/release", nil); err != nil {
		return wrap("take over the machine", err)
	}
	return nil
}

// wrap says what was being done, except where no daemon was there to do it.
func wrap(doing string, err error) error {
	if errors.Is(err, ErrNotRunning) {
		return err
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// do is send without a body.
func (c *Client) do(ctx context.Context, method, path string, out any) error {
	return c.send(ctx, method, path, nil, out)
}

// send sends one request, with in as its body unless that is nil, and decodes the
// answer's body into out unless that is nil.
func (c *Client) send(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://portolan"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		return readError(resp)
	}
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the daemon's answer to %s: %w", path, err)
	}
	return nil
}

// explain says what a failed connection means and what to do.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: start it with: portolan %sup", ErrNotRunning, c.flag())
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("connect to %s: permission denied; use portolan as the user who started it", c.profile.ControlSocket())
	}
	return err
}

// flag is what has to be typed to name the client's profile.
func (c *Client) flag() string {
	if c.profile.Name == profile.Default {
		return ""
	}
	return "--profile " + c.profile.Name + " "
}

// readError turns an answer that is no success into an error. The daemon sends
// {"error": "..."}; anything else is shown as it is.
func readError(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	var answer struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &answer) == nil && answer.Error != "" {
		return errors.New(answer.Error)
	}
	if text := strings.TrimSpace(string(body)); text != "" {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return errors.New(resp.Status)
}
