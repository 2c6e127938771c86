//go:build linux

package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/portolan-net/portolan/internal/testimage"
)

// web serves HTTP until SIGTERM.
func web(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("web")
	addr := flags.String("addr", ":80", "listen address")
	name := flags.String("name", "", "what the server calls itself (default the host name)")
	parse(flags, args, 0, 0)
	if *name == "" {
		*name, _ = os.Hostname()
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *addr)
	if err != nil {
		return err
	}
	announce("web", listener.Addr())
	server := &http.Server{Handler: pages(*name), ReadHeaderTimeout: time.Minute}
	end := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer end()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	r.Local = listener.Addr().String()
	return nil
}

// announce says that a server stands.
func announce(command string, addr net.Addr) {
	emit(testimage.Result{Command: command, Outcome: testimage.Listening, Local: addr.String()})
}

func pages(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		v := testimage.Visitor{Client: r.RemoteAddr, Host: r.Host, Name: name, Method: r.Method, Path: r.URL.Path}
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
			v.Local = local.String()
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	})
	mux.HandleFunc("GET /ip", func(w http.ResponseWriter, r *http.Request) {
		ip, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, ip)
	})
	mux.HandleFunc("GET /bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil || n < 0 {
			http.Error(w, "want /bytes/N", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		_, _ = io.CopyN(w, testimage.Stream(), n)
	})
	mux.HandleFunc("POST /sha256", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		if _, err := io.Copy(sum, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, hex.EncodeToString(sum.Sum(nil)))
	})
	return mux
}

// get fetches a URL. Its environment's proxies are used, as programs do.
func get(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("get")
	timeout := flags.Duration("timeout", 10*time.Second, "for all of it")
	method := flags.String("method", http.MethodGet, "request method")
	url := parse(flags, args, 1, 1)[0]

	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, *method, url, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	r.Status = response.StatusCode

	sum := sha256.New()
	head := &firstBytes{limit: 4096}
	r.Bytes, err = io.Copy(io.MultiWriter(sum, head), response.Body)
	r.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if utf8.Valid(head.data) {
		r.Body = string(head.data)
	}
	return cmp.Or(err, statusError(response))
}

// statusError makes a failed request a failure, without taking its fields away.
func statusError(response *http.Response) error {
	if response.StatusCode < http.StatusBadRequest {
		return nil
	}
	return errors.New(response.Status)
}

// firstBytes keeps the first limit bytes that are written to it.
type firstBytes struct {
	limit int
	data  []byte
}

func (f *firstBytes) Write(p []byte) (int, error) {
	f.data = append(f.data, p[:min(len(p), f.limit-len(f.data))]...)
	return len(p), nil
}
