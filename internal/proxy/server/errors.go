package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/proxy"
)

// refusedError: we do not carry this, whoever asks.
type refusedError struct {
	to  proxy.Destination
	err error
}

func (e *refusedError) Error() string { return fmt.Sprintf("%s: %v", e.to.Address(), e.err) }
func (e *refusedError) Unwrap() error { return e.err }

// reachError: no route of a decision worked.
type reachError struct {
	decision proxy.Decision
	err      error
}

func (e *reachError) Error() string { return e.err.Error() }
func (e *reachError) Unwrap() error { return e.err }

// report turns an error into what the client of a forward proxy is told: an HTTP
// status, and one line without secrets. group is the settings' name.
func report(err error, group string) (code int, text string) {
	text = strings.ReplaceAll(err.Error(), "\n", "; ")
	var reach *reachError
	if errors.As(err, &reach) && !reach.decision.Direct() && reach.decision.Source != "" {
		text += " (the proxy is from " + reach.decision.Source + ")"
	}
	var (
		blocked *proxy.BlockedError
		ours    *refusedError
		refused *proxy.RefusedError
		timeout net.Error
	)
	switch {
	case errors.As(err, &blocked), errors.As(err, &ours), errors.Is(err, syscall.EACCES):
		code = http.StatusForbidden
	case errors.As(err, &refused) && refused.AuthRequired():
		code = http.StatusBadGateway
		text += "; give user and password in the proxy's URL, in the settings " + group + ".http and " + group + ".https"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		code = http.StatusGatewayTimeout
	default:
		code = http.StatusBadGateway
	}
	return code, "portolan: " + text
}

// tellTimeout bounds the writing of an error.
const tellTimeout = 5 * time.Second

// tell answers an HTTP/1.1 client with text, and closes the connection. Its
// status line says the text, too: of a refused CONNECT, Go's and Python's clients
// show nothing but that line.
func tell(conn datapath.Conn, code int, text string) {
	_ = conn.SetDeadline(time.Now().Add(tellTimeout))
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d %s: %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n",
		code, http.StatusText(code), reason(text), len(text)+1, text) // a client that does not read is gone
	_ = conn.CloseWrite()
	_, _ = io.Copy(io.Discard, conn) // closing with unread bytes would be a reset, and take the page along
	_ = conn.Close()
}

// maxReason bounds a status line's text: old clients read lines into small buffers.
const maxReason = 400

// reason is text as a status line may have it (RFC 9112, section 4).
func reason(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxReason {
		text = text[:maxReason] + "..."
	}
	return text
}
