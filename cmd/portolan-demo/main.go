// Command portolan-demo is the web server that `make run` starts in a container
// when no nginx is at hand. It answers every request with a page that says who
// asked, as seen from inside the container. It listens on :80; -addr or
// PORTOLAN_DEMO_ADDR says otherwise.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	addr := flag.String("addr", cmp.Or(os.Getenv("PORTOLAN_DEMO_ADDR"), ":80"), "address to listen on")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	// PID 1 of a container gets no default signal action.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *addr); err != nil {
		fmt.Fprintln(os.Stderr, "portolan-demo:", err)
		os.Exit(1)
	}
}

// serve answers requests on addr until ctx is done.
func serve(ctx context.Context, addr string) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("portolan-demo: listening on", listener.Addr())
	server := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		// What is still being answered does not hold the container up.
		_ = server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-done
	return nil
}

// visit is what the page tells.
type visit struct {
	Client    string // the address the container sees
	Port      string
	Asked     string // what the client typed
	Container string
	Address   string // the container's own
}

func visitOf(r *http.Request) visit {
	host, port, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	v := visit{Client: host, Port: port, Asked: r.Host}
	v.Container, _ = os.Hostname()
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		v.Address = local.String()
	}
	return v
}

// answer sends a page to browsers and plain text to everybody else.
func answer(w http.ResponseWriter, r *http.Request) {
	fmt.Println(r.RemoteAddr, r.Method, r.Host, r.URL.Path)
	w.Header().Set("Cache-Control", "no-store")
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = page.Execute(w, visitOf(r))
		return
	}
	v := visitOf(r)
	fmt.Fprintf(w, "Hello from a container behind Portolan.\n\n"+
		"You asked for   %s\nI see you as    %s, port %s\nI am            %s, at %s\n",
		v.Asked, v.Client, v.Port, v.Container, v.Address)
}

var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Portolan</title>
<style>
 body { font: 18px/1.5 Georgia, serif; max-width: 34em; margin: 4em auto; padding: 0 1em; background: #f4ecd8; color: #2b2a27 }
 h1 { font-weight: normal; border-bottom: 1px solid #b59b6b }
 td { padding: 0 1.5em .3em 0; vertical-align: top }
 code { color: #7a2f14 }
</style>
<h1>Hello from a container behind Portolan</h1>
<p>This page crossed one ordinary process on your computer. No bridge, no iptables rule and no route was added for it.</p>
<table>
 <tr><td>You asked for<td><code>{{.Asked}}</code>
 <tr><td>The container sees you as<td><code>{{.Client}}</code>, port <code>{{.Port}}</code>
 <tr><td>The container is<td><code>{{.Container}}</code>, at <code>{{.Address}}</code>
</table>
</html>
`))
