package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/proxy"
)

// returning is a PAC script that always says the same.
func returning(result string) proxy.Config {
	text := fmt.Sprintf("function FindProxyForURL() { return %q }", result)
	return proxy.Config{Script: proxy.NewScript("test", text, proxy.Host{Now: time.Now})}
}

// What a script blocks when its proxy is dead has no way behind that.
func TestBlockedEndsTheWalk(t *testing.T) {
	b := newBench(t, returning("PROXY "+serveDead(t)+"; PROXY reject.docker.internal:1; DIRECT"), "80")
	b.put("web.example", "198.51.100.1:80", startOrigin(t))
	forward := b.forward(containerAddr)
	if code, text, _ := connect(t, forward, "web.example:80", ""); code != http.StatusForbidden {
		t.Errorf("CONNECT: %d %s", code, text)
	}
	if code, text := get(t, proxyClient(t, forward), "http://web.example/"); code != http.StatusForbidden {
		t.Errorf("GET: %d %s", code, text)
	}
	if _, err := b.transparent("198.51.100.1:80"); !errors.Is(err, syscall.EACCES) {
		t.Errorf("transparent: %v", err)
	}
	if len(b.dialed) > 0 {
		t.Errorf("dialed %v", b.dialed)
	}
}

// A proxy that could not be reached comes last for a while, whatever found out,
// and the time for all of them is that for one.
func TestDeadProxyIsRemembered(t *testing.T) {
	const silent = "198.51.100.250:3128" // drops SYNs
	for name, ask := range map[string]func(t *testing.T, b *bench){
		"GET": func(t *testing.T, b *bench) {
			if code, text := get(t, proxyClient(t, b.forward(containerAddr)), "http://web.example/x"); code != http.StatusOK {
				t.Errorf("%d %s", code, text)
			}
		},
		"transparent": func(t *testing.T, b *bench) {
			conn, err := b.transparent("198.51.100.1:80")
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(conn, "GET /x HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n")
			if page, err := io.ReadAll(conn); !strings.HasPrefix(string(page), "HTTP/1.1 200 ") {
				t.Errorf("page %q, %v", page, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			up := startUpstream(t, http.StatusOK, startOrigin(t))
			b := newBench(t, returning("PROXY "+silent+"; PROXY "+up.addr), "80")
			b.reach = 2 * time.Second
			var tries atomic.Int32
			b.proxy.Direct = func(ctx context.Context, network, address string) (net.Conn, error) {
				if address != silent {
					return (&net.Dialer{}).DialContext(ctx, network, address)
				}
				tries.Add(1)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			for range 3 {
				ask(t, b)
			}
			if n := tries.Load(); n != 1 {
				t.Errorf("the dead proxy was tried %d times, want once", n)
			}
		})
	}
}

// Two silent proxies take no longer than one.
func TestSilentProxiesShareTheTime(t *testing.T) {
	b := newBench(t, returning("PROXY 198.51.100.250:1; PROXY 198.51.100.251:1"), "")
	b.reach = time.Second
	b.proxy.Direct = func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	began := time.Now()
	code, text := get(t, proxyClient(t, b.forward(containerAddr)), "http://web.example/")
	if took := time.Since(began); code != http.StatusGatewayTimeout || took > 2*b.reach-100*time.Millisecond {
		t.Errorf("%d %s after %s", code, text, took)
	}
}

// Proxies answer TRACE with what they were sent: a container would read the
// password there.
func TestTraceHoldsNoPassword(t *testing.T) {
	up := startUpstream(t, http.StatusOK, "")
	b := newBench(t, proxy.Config{HTTP: "http://u:p@" + up.addr}, "")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodTrace, "http://web.example/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Max-Forwards", "0")
	response, err := proxyClient(t, b.forward(containerAddr)).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if got, want := up.heard(), "TRACE http://web.example/ "; got != want {
		t.Errorf("the proxy heard %q, want %q", got, want)
	}
}

// What one client's connection keeps open behind it is one connection.
func TestOneConnectionBehindEach(t *testing.T) {
	const sites = 5
	b, opened := newBench(t, proxy.Config{}, ""), make(chan net.Conn, 2*sites)
	place := startOrigin(t)
	b.cfg.Dial = func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (datapath.Conn, error) {
		conn, err := b.dial(ctx, src, dst)
		if err == nil {
			opened <- conn
		}
		return conn, err
	}
	client := proxyClient(t, b.forward(containerAddr))
	for i := range sites {
		b.put(fmt.Sprintf("s%d.example", i), fmt.Sprintf("198.51.100.%d:80", i+1), place)
		if code, text := get(t, client, fmt.Sprintf("http://s%d.example/", i)); code != http.StatusOK {
			t.Fatalf("%d %s", code, text)
		}
	}
	open := 0
	for range len(opened) {
		conn := <-opened
		for deadline := time.Now().Add(time.Second); conn.SetDeadline(time.Time{}) == nil; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				open++
				break
			}
		}
	}
	if open != 1 {
		t.Errorf("%d connections are open, want 1", open)
	}
}

// A proxy, or a server, may end an idle connection at any moment: no request is
// lost by that, also none that can't be sent twice.
func TestClosedWhenIdle(t *testing.T) {
	place := serve(t, func(_ context.Context, conn *net.TCPConn) {
		in := bufio.NewReader(conn)
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_, _ = in.Peek(1)
		_ = conn.Close() // as the next request comes
	})
	b := newBench(t, proxy.Config{}, "")
	b.put("web.example", "198.51.100.1:80", place)
	client := proxyClient(t, b.forward(containerAddr))
	for _, c := range []struct{ method, body string }{{"GET", ""}, {"PUT", "body"}, {"POST", ""}, {"PATCH", "body"}, {"DELETE", ""}, {"GET", ""}} {
		request, err := http.NewRequestWithContext(t.Context(), c.method, "http://web.example/", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if string(text) != "ok" {
			t.Errorf("%s: %s: %s", c.method, response.Status, text)
		}
	}
}
