package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// TrailerSHA256 is the trailer of /bytes/N: the body's SHA-256 in hexadecimal.
const TrailerSHA256 = "X-Sha256"

// StartWeb serves HTTP/1.1:
//
//	GET  /             "hello"
//	GET  /ip           the client's address, without its port
//	GET  /bytes/N      N bytes of NewBytes, with TrailerSHA256
//	GET  /sha256/N     the SHA-256 of these N bytes, in hexadecimal
//	POST /upload       the SHA-256 of the request's body, in hexadecimal
//	GET  /slow/D       "slow" after the duration D (2s, 150ms)
func (l *Lab) StartWeb(t testing.TB, node *Node, addr string) *Server {
	t.Helper()
	ln := listen(t, node, addr)
	s := &Server{Addr: addrPort(ln.Addr())}
	srv := &http.Server{
		Handler:           webHandler(),
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // clients that go away are no news
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			s.saw(c.RemoteAddr())
			return ctx
		},
	}
	var active waitingHandler
	active.next, srv.Handler = srv.Handler, &active
	s.wg.Go(func() { _ = srv.Serve(ln) }) // ends with ErrServerClosed
	t.Cleanup(func() {
		srv.Close()
		s.wg.Wait()
		active.wg.Wait()
	})
	return s
}

func webHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })
	mux.HandleFunc("GET /ip", func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, host)
	})
	mux.HandleFunc("GET /bytes/{n}", sized(serveBytes))
	mux.HandleFunc("GET /sha256/{n}", sized(func(w http.ResponseWriter, n int64) {
		fmt.Fprintln(w, BytesSHA256(n))
	}))
	mux.HandleFunc("POST /upload", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		if _, err := io.Copy(sum, r.Body); err == nil {
			fmt.Fprintln(w, hex.EncodeToString(sum.Sum(nil)))
		}
	})
	mux.HandleFunc("GET /slow/{d}", serveSlow)
	return mux
}

// sized parses the path's N.
func sized(serve func(http.ResponseWriter, int64)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil || n < 0 {
			http.Error(w, "want a number of bytes", http.StatusBadRequest)
			return
		}
		serve(w, n)
	}
}

func serveBytes(w http.ResponseWriter, n int64) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", TrailerSHA256)
	sum := sha256.New()
	if _, err := io.CopyBuffer(w, io.TeeReader(NewBytes(n), sum), make([]byte, 1<<17)); err == nil {
		w.Header().Set(TrailerSHA256, hex.EncodeToString(sum.Sum(nil)))
	}
}

func serveSlow(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.PathValue("d"))
	if err != nil {
		http.Error(w, "want a duration such as 2s", http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(d):
		fmt.Fprintln(w, "slow")
	case <-r.Context().Done():
	}
}

// NewBytes is the stream that /bytes/N sends: n bytes of ChaCha8 (package
// math/rand/v2) from a fixed seed.
func NewBytes(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte([]byte("portolan test internet: bytes/N!"))), n)
}

// BytesSHA256 is the SHA-256 of NewBytes(n), in hexadecimal.
func BytesSHA256(n int64) string {
	sum := sha256.New()
	_, _ = io.Copy(sum, NewBytes(n)) // neither end can fail
	return hex.EncodeToString(sum.Sum(nil))
}
