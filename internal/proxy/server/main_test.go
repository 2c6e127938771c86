package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/proxy"
	"github.com/portolan-net/portolan/internal/proxy/entry"
)

func TestMain(m *testing.M) {
	// The relay's workers are for all flows of a process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/portolan-net/portolan/internal/poll.(*Loop).run"))
}

// bench is a Server with a pretended network: names and addresses lead to
// listeners of the test.
type bench struct {
	*Server
	t        *testing.T
	names    map[string][]netip.Addr
	policies *proxy.Source

	mu     sync.Mutex
	places map[netip.AddrPort]string // where an address of the network really is
	dialed []string                  // "source > destination"
}

const (
	containerAddr = "172.17.0.2"
	engineAddr    = "192.168.65.3"
)

func newBench(t *testing.T, containers proxy.Config, ports string) *bench {
	t.Helper()
	policy, err := proxy.Compile(containers)
	if err != nil {
		t.Fatal(err)
	}
	transparent, err := entry.ParsePorts(ports)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, names: map[string][]netip.Addr{}, places: map[netip.AddrPort]string{}, policies: proxy.NewSource(nil, policy)}
	b.Server = New(Config{
		Link: portolan.DefaultLink(), Policies: b.policies, Dial: b.dial, Lookup: b.lookup,
		Networks:         func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")} },
		TransparentPorts: func() entry.Ports { return transparent },
		Log:              slog.New(slog.DiscardHandler),
	})
	return b
}

func (b *bench) dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (datapath.Conn, error) {
	b.mu.Lock()
	place, ok := b.places[dst]
	b.dialed = append(b.dialed, src.String()+" > "+dst.String())
	b.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("dial %s: %w", dst, syscall.ECONNREFUSED)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", place)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func (b *bench) lookup(_ context.Context, name string) ([]netip.Addr, error) {
	if addrs, ok := b.names[name]; ok {
		return addrs, nil
	}
	return nil, fmt.Errorf("look up %s: NXDOMAIN", name)
}

// put makes name and address lead to a listener's real address.
func (b *bench) put(name, addrPort, place string) {
	at := netip.MustParseAddrPort(addrPort)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.places[at] = place
	if name != "" {
		b.names[name] = append(b.names[name], at.Addr())
	}
}

// serve gives each connection to a new listener to handle, and returns where it
// listens. Everything ends with the test.
func serve(t *testing.T, handle func(ctx context.Context, conn *net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				handle(ctx, conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		ln.Close()
		conns.Wait()
	})
	return ln.Addr().String()
}

// forward is where the forward proxy listens for a client.
func (b *bench) forward(from string) string {
	src := netip.AddrPortFrom(netip.MustParseAddr(from), 40000)
	return serve(b.t, func(ctx context.Context, conn *net.TCPConn) {
		b.ServeTCP(ctx, conn, portolan.Flow{Proto: portolan.TCP, Src: src, Dst: netip.MustParseAddrPort("192.168.65.1:3128")})
	})
}

// transparent opens a container's flow to dst and returns the container's end.
func (b *bench) transparent(dst string) (net.Conn, error) {
	b.t.Helper()
	flow := portolan.Flow{Proto: portolan.TCP, Src: netip.MustParseAddrPort(containerAddr + ":40000"), Dst: netip.MustParseAddrPort(dst)}
	endpoint, taken, err := b.OpenTCP(b.t.Context(), flow)
	if err != nil {
		return nil, err
	}
	if !taken {
		return nil, errNotTaken
	}
	conn, err := net.Dial("tcp", serve(b.t, func(ctx context.Context, conn *net.TCPConn) { endpoint.Serve(ctx, conn) }))
	if err != nil {
		return nil, err
	}
	b.t.Cleanup(func() { conn.Close() })
	return conn, conn.SetDeadline(time.Now().Add(10 * time.Second))
}

var errNotTaken = fmt.Errorf("left to egress")

// upstream is a proxy of the company that writes down what it is asked for.
type upstream struct {
	addr string

	mu    sync.Mutex
	asked []string
}

func (u *upstream) note(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked = append(u.asked, text)
}

func (u *upstream) heard() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return strings.Join(u.asked, "\n")
}

// startUpstream starts a proxy. Tunnels all lead to far; a status that is not
// 200 refuses them. Other requests are answered with their own first line.
func startUpstream(t *testing.T, status int, far string) *upstream {
	t.Helper()
	u := &upstream{}
	u.addr = serve(t, func(ctx context.Context, conn *net.TCPConn) {
		defer conn.Close()
		r := bufio.NewReader(conn)
		for {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			u.note(request.Method + " " + request.RequestURI + " " + request.Header.Get("Proxy-Authorization"))
			if request.Method != http.MethodConnect {
				body, _ := io.ReadAll(request.Body)
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body)+len(request.RequestURI), request.RequestURI+string(body))
				continue
			}
			fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\n\r\n", status, http.StatusText(status))
			if status != http.StatusOK {
				return
			}
			other, err := net.Dial("tcp", far)
			if err != nil {
				return
			}
			defer other.Close()
			defer context.AfterFunc(ctx, func() { other.Close() })()
			go func() {
				_, _ = io.Copy(other, r)
				_ = other.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(conn, other)
			return
		}
	})
	return u
}
