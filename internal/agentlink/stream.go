package agentlink

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// streamProtocol is what both sides name when a connection becomes a stream of
// bytes (RFC 9110, section 7.8).
const streamProtocol = "portolan-stream"

// OpenStream asks the server on a unix socket for a stream: POST path with query.
// It returns when the server has agreed. A refusal is an *Error.
func OpenStream(ctx context.Context, socket, path string, query url.Values) (*net.UnixConn, error) {
	dialed, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	conn, ok := dialed.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("dial %s: %T", socket, dialed), dialed.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	if err := agree(conn, path, query); err != nil {
		stop()
		return nil, errors.Join(err, conn.Close())
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return conn, nil
}

// agree does the client's part: one request and its answer.
func agree(conn net.Conn, path string, query url.Values) error {
	if _, err := fmt.Fprintf(conn, "POST %s?%s HTTP/1.1\r\nHost: stream\r\nConnection: Upgrade\r\nUpgrade: %s\r\nContent-Length: 0\r\n\r\n",
		path, query.Encode(), streamProtocol); err != nil {
		return err
	}
	// The server sends nothing after its answer until it is used; a byte at a time
	// would lose nothing either way, but answers are small.
	reader := bufio.NewReader(&oneByOne{conn})
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	if answer.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	defer func() { _ = answer.Body.Close() }()
	var refusal errorBody
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxBody)).Decode(&refusal); err != nil || refusal.Error == "" {
		refusal.Error = "open stream: " + answer.Status
	}
	return &Error{Status: answer.StatusCode, Text: refusal.Error}
}

// oneByOne reads no byte too many: what follows the answer is the stream's.
type oneByOne struct{ net.Conn }

func (o *oneByOne) Read(p []byte) (int, error) { return o.Conn.Read(p[:min(len(p), 1)]) }

// AcceptStream agrees to a request for a stream. The connection is the caller's
// from then on, and the handler must not return before it is done with.
func AcceptStream(w http.ResponseWriter) (*net.UnixConn, error) {
	hijacked, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("accept stream: %w", err)
	}
	conn, ok := hijacked.(*net.UnixConn)
	if !ok || buffered.Reader.Buffered() > 0 {
		return nil, errors.Join(errors.New("accept stream: the client did not wait for the answer"), hijacked.Close())
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+streamProtocol+"\r\n\r\n"); err != nil {
		return nil, errors.Join(fmt.Errorf("accept stream: %w", err), conn.Close())
	}
	return conn, nil
}

// Forwarder is what the daemon does for sockets of the machine that lead to the
// host. Listeners are written as package hostservice does: unix:PATH, tcp:ADDR.
type Forwarder interface {
	// Listeners are those that the agent is to have, besides the ssh-agent's.
	Listeners() []string
	// Forward reaches what listener leads to, then accepts the machine's stream
	// and carries it to its end. An error comes before accept is called.
	Forward(ctx context.Context, listener string, accept func() (*net.UnixConn, error)) error
}

// The paths of forwards, and the query's key.
const (
	pathListeners = "/v1/listeners"
	pathForward   = "/v1/forward"
	keyListener   = "listener"
)

// Listeners asks which listeners the agent is to have.
func (c *Client) Listeners(ctx context.Context) ([]string, error) {
	answer, err := c.do(ctx, http.MethodGet, pathListeners, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	var listeners []string
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxBody)).Decode(&listeners); err != nil {
		return nil, fmt.Errorf("ask the daemon for listeners: %w", err)
	}
	return listeners, nil
}

// Forward opens a stream to what listener leads to.
func (c *Client) Forward(ctx context.Context, listener string) (*net.UnixConn, error) {
	return OpenStream(ctx, c.socket, pathForward, url.Values{keyListener: {listener}})
}

func (s *server) serveListeners(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.daemon.Listeners())
}

// serveForward is a stream from the machine to the host.
func (s *server) serveForward(w http.ResponseWriter, r *http.Request) {
	s.streams.Add(1)
	defer s.streams.Done()
	err := s.daemon.Forward(r.Context(), r.URL.Query().Get(keyListener), func() (*net.UnixConn, error) { return AcceptStream(w) })
	if err != nil {
		refuse(w, http.StatusBadGateway, err)
	}
}
