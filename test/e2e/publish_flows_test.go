package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// serveLimit is how long a server that was just started may take to answer,
// exchangeLimit how long one exchange with a server may.
const (
	serveLimit    = 10 * time.Second
	exchangeLimit = 10 * time.Second
)

// answersSoon waits for the web server of the container name, which is about to
// start. It may be called by any goroutine.
func answersSoon(t *testing.T, node *lab.Node, name, addr string) {
	t.Helper()
	var got string
	var err error
	for deadline := time.Now().Add(serveLimit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got, err = stage.Fetch(t, node, addr, "/"); err == nil && strings.Contains(got, `"name":"`+name+`"`) {
			return
		}
	}
	t.Errorf("http://%s/ from the %s: %q (%v), want %s", addr, node.Name, got, err, name)
}

// checkManyClients has many clients talk to one published port at once: each gets
// its own answers, and the container tells them apart.
func checkManyClients(t *testing.T, s *stage.Stage) {
	s.Serve(t, "echo", []string{"-p", "7000:7/udp"}, "echo-udp")
	s.Serve(t, "whoami", []string{"-p", "7001:7/udp"}, "echo-udp", "-mode", "whoami")
	var clients sync.WaitGroup
	for i := range 8 {
		for _, ip := range []string{lab.HostV4, lab.HostV6} {
			for _, node := range []*lab.Node{s.Lab.Neighbour, s.Lab.Host} {
				clients.Go(func() { talk(t, node, hostPort(ip, 7000), fmt.Sprintf("client %d of %s on %s", i, ip, node.Name)) })
			}
		}
	}
	clients.Wait()

	seen := map[string]bool{}
	for range 8 {
		got, err := stage.Ask(t, s.Lab.Neighbour, hostPort(lab.HostV4, 7001), "who am I")
		client, parseErr := netip.ParseAddrPort(got)
		if err != nil || parseErr != nil || client.Addr().String() != lab.NeighbourV4 || seen[got] {
			t.Errorf("the container sees %q (%v), want %s with a port of its own; before: %v", got, err, lab.NeighbourV4, seen)
		}
		seen[got] = true
	}
}

// talk sends datagrams one after the other from one socket and wants each back.
func talk(t *testing.T, node *lab.Node, addr, name string) {
	t.Helper()
	conn, err := node.Dial(t.Context(), "udp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(exchangeLimit)); err != nil {
		t.Error(err)
	}
	answer := make([]byte, 1500)
	for i := range 20 {
		question := fmt.Sprintf("%s: %d", name, i)
		if _, err := conn.Write([]byte(question)); err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		n, err := conn.Read(answer)
		if err != nil || string(answer[:n]) != question {
			t.Errorf("%q comes back as %q (%v)", question, answer[:n], err)
			return
		}
	}
}

// checkEnds ends connections to published ports in each way from each side.
func checkEnds(t *testing.T, s *stage.Stage) {
	s.Serve(t, "after-eof", []string{"-p", "7000:7"}, "echo-tcp", "-mode", "after-eof")
	s.Serve(t, "resets", []string{"-p", "7001:7"}, "echo-tcp", "-mode", "rst")
	s.Serve(t, "greets", []string{"-p", "7002:7"}, "echo-tcp", "-mode", "whoami")
	s.Serve(t, "echo", []string{"-p", "7003:7"}, "echo-tcp")
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			client := func(t *testing.T, port uint16) *net.TCPConn {
				return connect(t, s.Lab.Neighbour, hostPort(f.host, port))
			}
			t.Run("the client's FIN comes through, and data after it back", func(t *testing.T) {
				conn := client(t, 7000)
				sent := bytes.Repeat([]byte("published"), 20_000)
				if _, err := conn.Write(sent); err != nil {
					t.Fatal(err)
				}
				if err := conn.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, sent) {
					t.Errorf("%d bytes come back (%v), want %d", len(got), err, len(sent))
				}
			})
			t.Run("the container's FIN comes through, and data after it there", func(t *testing.T) {
				conn := client(t, 7002)
				if _, err := io.ReadAll(conn); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write(bytes.Repeat([]byte("x"), 77_777)); err != nil {
					t.Fatal(err)
				}
				if err := conn.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				logged(t, s, "greets", conn, `"outcome":"closed"`, `"bytes":77777`)
			})
			t.Run("the container's reset comes through", func(t *testing.T) {
				conn := client(t, 7001)
				if _, err := conn.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("read: %v, want a reset", err)
				}
			})
			t.Run("the client's reset comes through", func(t *testing.T) {
				conn := client(t, 7003)
				if _, err := conn.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(conn.SetLinger(0), conn.Close()); err != nil {
					t.Fatal(err)
				}
				logged(t, s, "echo", conn, `"outcome":"reset"`)
			})
		})
	}
}

// connect opens a TCP connection for one exchange.
func connect(t *testing.T, node *lab.Node, addr string) *net.TCPConn {
	t.Helper()
	conn, err := node.Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(exchangeLimit)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// logged waits until a container's log has a line about a client's address with
// all the words.
func logged(t *testing.T, s *stage.Stage, container string, conn net.Conn, words ...string) {
	t.Helper()
	client := netip.MustParseAddrPort(conn.LocalAddr().String()).Addr().String()
	stage.Eventually(t, serveLimit, fmt.Sprintf("%s logs %q for %s", container, words, client), func() bool {
		for line := range strings.Lines(s.Docker(t, "logs", container)) {
			all := strings.Contains(line, client)
			for _, word := range words {
				all = all && strings.Contains(line, word)
			}
			if all {
				return true
			}
		}
		return false
	})
}
