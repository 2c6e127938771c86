package enginesocket

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
)

// requestSwitch carries a request after which the connection may be no HTTP/1.
func (s *session) requestSwitch(ctx context.Context, h head) error {
	s.retire()
	if err := s.dial(ctx); err != nil {
		return err
	}
	build := h.path() == "/grpc" && strings.EqualFold(h.upgrade, "h2c") && len(s.proxy.extra(ctx).BuildArgs) > 0
	from := bufio.NewReaderSize(stamped{s.engine, &s.answered}, bufferSize)
	verdict := make(chan answered, 1)
	go func() {
		switched, err := s.answerHead(from)
		verdict <- answered{switched, err}
		if err != nil || switched && build {
			close(s.ended)
			return
		}
		s.answer(from, s.retired, s.ended)
	}()
	s.used = true
	if err := s.send(h.raw, &h); err != nil {
		return err
	}
	select {
	case v := <-verdict:
		s.switched.Store(v.switched)
		switch {
		case v.switched && build:
			<-s.ended
			return errors.Join(errSwitched, s.relayH2(ctx, from))
		case v.switched:
			return s.raw()
		}
		return v.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answered is how the engine took the wish to switch.
type answered struct {
	switched bool
	err      error
}

// answerHead copies the engine's answer to the client as far as its head, and
// reports whether what follows is the stream that was asked for: after 101, or
// after the 200 without length of old clients' attach and exec.
func (s *session) answerHead(from *bufio.Reader) (switched bool, err error) {
	for {
		raw, err := readHead(from)
		if err != nil {
			return false, err
		}
		response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), nil)
		if err != nil {
			return false, err
		}
		_ = response.Body.Close() // only its head is here
		if _, err := s.client.Write(raw); err != nil {
			return false, err
		}
		switch code := response.StatusCode; {
		case code == http.StatusSwitchingProtocols:
			return true, nil
		case code >= 200:
			stream := strings.HasPrefix(response.Header.Get("Content-Type"), "application/vnd.docker.")
			return code == http.StatusOK && stream && response.ContentLength < 0 && len(response.TransferEncoding) == 0, nil
		}
	}
}

// raw carries the client's bytes until it has said all. The answers' way ends
// by itself: what the engine still says when it no longer listens is delivered.
func (s *session) raw() error {
	_, err := copyAll(upstream{s.engine}, s.in)
	var gone upstreamError
	if err != nil && !errors.As(err, &gone) {
		return err
	}
	return errors.Join(errSwitched, s.finish())
}

// upstream marks errors of writing to the engine.
type upstream struct{ io.Writer }

func (u upstream) Write(p []byte) (int, error) {
	n, err := u.Writer.Write(p)
	if err != nil {
		err = upstreamError{err}
	}
	return n, err
}
