package enginesocket

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is a stream of a Unix socket.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// bufferSize is what one step of a body moves.
const bufferSize = 64 << 10

// session is one client's connection.
type session struct {
	proxy  *Proxy
	client Conn
	in     *bufio.Reader // of client

	engine  Conn
	used    bool          // a request has been sent on engine
	retired chan struct{} // closed when answers of engine are not the last
	ended   chan struct{} // closed when all answers of engine are delivered

	work     atomic.Pointer[work] // what was asked for last; nil for nothing
	switched atomic.Bool          // to something else than HTTP/1
	said     atomic.Int64         // the moment at which the client last said something
	answered atomic.Int64         // the moment at which the engine did

	mu     sync.Mutex // guards what follows
	open   []io.Closer
	closed bool
}

// keep closes c with the session.
func (s *session) keep(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return
	}
	s.open = append(s.open, c)
}

// close ends whatever still waits on one of the session's connections.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, c := range s.open {
		_ = c.Close() // most have ended already
	}
	s.open = nil
}

// run serves the client until both sides have ended.
func (s *session) run(ctx context.Context) error {
	for {
		if s.beginsH2() {
			return s.speakH2(ctx)
		}
		raw, err := readHead(s.in)
		if errors.Is(err, io.EOF) {
			return s.finish()
		}
		var h head
		if err == nil {
			h, err = parseHead(raw)
		}
		if err == nil {
			if err = s.request(ctx, h); err != nil {
				s.abandon(err)
			}
		}
		var bad badRequest
		var upstream upstreamError
		switch {
		case errors.Is(err, errSwitched):
			return nil
		case errors.As(err, &bad):
			return s.refuse(bad)
		case errors.As(err, &upstream):
			<-s.ended // the engine may say why
			return err
		case err != nil:
			return err
		}
	}
}

// beginsH2 reports whether the client speaks HTTP/2. It waits for no more bytes
// than the shortest of requests has.
func (s *session) beginsH2() bool {
	for n := 1; n <= len(h2Preface); n++ {
		if p, _ := s.in.Peek(n); string(p) != h2Preface[:n] {
			return false
		}
	}
	return true
}

// errSwitched: the connection was no HTTP/1 any more, and has ended.
var errSwitched = errors.New("connection was switched")

// request carries one request to the engine.
func (s *session) request(ctx context.Context, h head) error {
	waited, err := s.proxy.begin(ctx, s, work{name: h.method + " " + h.path(), lasts: h.lasts(), first: h.preparesExec()})
	if err != nil {
		return err
	}
	if waited {
		s.retire() // that engine has ended
	}
	if h.maySwitch() {
		return s.requestSwitch(ctx, h)
	}
	if before := s.proxy.config.BeforeSwarm; before != nil && h.entersSwarm() {
		before(ctx)
	}
	if before := s.proxy.config.BeforeStart; before != nil {
		if container := h.starts(); container != "" {
			before(ctx, container)
		}
	}
	if s.engine == nil {
		if err := s.dial(ctx); err != nil {
			return err
		}
		go s.answer(s.engine, s.retired, s.ended)
	}
	s.used = true
	switch {
	case h.method == "POST" && h.path() == "/containers/create" && !h.old && !h.encoded && h.hasBody():
		return s.create(ctx, h)
	case h.method == "POST" && h.path() == "/build":
		if args := s.proxy.extra(ctx).BuildArgs; len(args) > 0 {
			return s.send(h.withTarget(addToBuild(h.target, args)), &h)
		}
	}
	return s.send(h.raw, &h)
}

// send carries a head, and the body that follows it.
func (s *session) send(raw []byte, h *head) error {
	if _, err := s.engine.Write(raw); err != nil {
		return upstreamError{err}
	}
	body := h.newWalker()
	if body == nil {
		return nil
	}
	return forward(s.engine, s.in, body)
}

// maxCreate bounds the body of POST /containers/create.
const maxCreate = 16 << 20

// create adds to a container that is about to be made. The head goes first, so
// that the engine answers an Expect.
func (s *session) create(ctx context.Context, h head) error {
	extra := s.proxy.extra(ctx)
	if !extra.ofContainers() {
		return s.send(h.raw, &h)
	}
	if _, err := s.engine.Write(h.asChunked()); err != nil {
		return upstreamError{err}
	}
	body, err := readBody(s.in, &h, maxCreate)
	if err != nil {
		return err
	}
	var imageEnv []string
	if len(extra.Env) > 0 {
		imageEnv = s.proxy.imageEnv(ctx, imageOf(body))
	}
	body = addToContainer(body, extra, imageEnv)
	var out bytes.Buffer
	fmt.Fprintf(&out, "%x\r\n", len(body))
	out.Write(body)
	out.WriteString("\r\n0\r\n\r\n")
	if len(body) == 0 {
		out.Reset()
		out.WriteString("0\r\n\r\n")
	}
	if _, err := s.engine.Write(out.Bytes()); err != nil {
		return upstreamError{err}
	}
	return nil
}

// dial opens a connection to the engine.
func (s *session) dial(ctx context.Context) error {
	engine, err := s.proxy.dial(ctx)
	if err != nil {
		return err
	}
	s.keep(engine)
	s.engine, s.used = engine, false
	s.retired, s.ended = make(chan struct{}), make(chan struct{})
	return nil
}

// retire ends the present connection to the engine, after its last answer.
func (s *session) retire() {
	if s.engine == nil {
		return
	}
	close(s.retired)
	_ = s.engine.CloseWrite() // one that is gone has no more answers
	<-s.ended
	_ = s.engine.Close()
	s.engine = nil
}

// abandon ends the connection to the engine at once when the body of a request
// is bad: what the engine says to half a request is of no use.
func (s *session) abandon(err error) {
	var bad badRequest
	if errors.As(err, &bad) && s.engine != nil {
		close(s.retired)
		_ = s.engine.Close()
		<-s.ended
		s.engine = nil
	}
}

// answer copies what the engine says to the client.
func (s *session) answer(engine io.Reader, retired, ended chan struct{}) {
	defer close(ended)
	_, err := copyAll(s.client, stamped{engine, &s.answered})
	select {
	case <-retired:
		return
	default:
	}
	if err != nil || s.client.CloseWrite() != nil {
		s.close()
	}
}

// goneLook is how often a client that has said all is looked at.
const goneLook = time.Second

// finish is the way of a client that has said all. It may still listen: when it
// does not, nobody waits for the end of a stream on which nothing comes.
func (s *session) finish() error {
	if s.engine == nil {
		return nil
	}
	_ = s.engine.CloseWrite()
	look := time.NewTicker(goneLook)
	defer look.Stop()
	for {
		select {
		case <-s.ended:
			return nil
		case <-look.C:
			if _, err := s.client.Write(nil); err != nil {
				s.close()
			}
		}
	}
}

// refuse answers a request that is none, when all before it is answered.
func (s *session) refuse(bad badRequest) error {
	s.retire()
	body := fmt.Sprintf("{\"message\":%q}\n", "portolan: bad request: "+string(bad))
	_, err := fmt.Fprintf(s.client, "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	return errors.Join(bad, err)
}

// buffers lends what copyAll copies with.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// copyAll copies src to dst to its end. It hides ReadFrom and WriteTo, which for
// these sockets come to the same with smaller buffers.
func copyAll(dst io.Writer, src io.Reader) (int64, error) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf[:])
}
