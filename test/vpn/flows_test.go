package vpn

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// flow is a connection of a container that echoes what the test sends.
type flow struct {
	container string
	conn      net.Conn
}

// flowPort is where the test waits for the connection.
const flowPort = 9100

// openFlow starts a container that connects to an address of a node.
func openFlow(t *testing.T, s *stage.Stage, container string, node *lab.Node, addr string) flow {
	t.Helper()
	ln, err := node.Listen("tcp", hostPort(addr, flowPort))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s.Serve(t, container, nil, "hold", hostPort(addr, flowPort))
	conn, err := ln.Accept() // "hold" says that it stands
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return flow{container, conn}
}

// wantAlive sends over the connection and wants it back.
func (f flow) wantAlive(t *testing.T) {
	t.Helper()
	sent, got := make([]byte, 64<<10), make([]byte, 64<<10)
	_, _ = rand.Read(sent) // never fails
	if err := f.conn.SetDeadline(time.Now().Add(followed)); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() { // ends by the deadline
		_, err := f.conn.Write(sent)
		wrote <- err
	}()
	_, err := io.ReadFull(f.conn, got)
	if sendErr := <-wrote; err != nil || sendErr != nil || !bytes.Equal(sent, got) {
		t.Errorf("flow to %s: write %v, read %v, the same bytes: %v", f.conn.LocalAddr(), sendErr, err, bytes.Equal(sent, got))
	}
}

// doomed are containers with connections that end with the VPN.
type doomed []string

// openDoomed starts, for each family, one whose connection is idle, and those that
// send and receive as much as they can.
func openDoomed(t *testing.T, s *stage.Stage) doomed {
	t.Helper()
	var all doomed
	for i, addr := range []string{intranetV4, intranetV6} {
		idle := openFlow(t, s, fmt.Sprint("idle", i), s.Lab.Internet, addr)
		idle.wantAlive(t)
		all = append(all, idle.container)
		for name, busy := range map[string]struct {
			command []string
			serve   func(net.Conn) error
		}{
			"upload": {[]string{"stream-send", hostPort(addr, flowPort), "-bytes", "1000000000000"}, func(conn net.Conn) error {
				_, err := io.Copy(io.Discard, conn)
				return err
			}},
			"download": {[]string{"stream-recv", hostPort(addr, flowPort)}, func(conn net.Conn) error {
				_, err := io.Copy(conn, testimage.Stream())
				return err
			}},
		} {
			name = fmt.Sprint(name, i)
			openBusy(t, s, name, addr, busy.command, busy.serve)
			all = append(all, name)
		}
	}
	return all
}

// openBusy starts a container that connects to addr, where serve keeps it busy.
func openBusy(t *testing.T, s *stage.Stage, name, addr string, command []string, serve func(net.Conn) error) {
	t.Helper()
	ln, err := s.Lab.Internet.Listen("tcp", hostPort(addr, flowPort))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s.Docker(t, append([]string{"run", "-d", "--name", name, testimage.Name}, command...)...)
	t.Cleanup(func() { s.Docker(t, "rm", "-f", name) })
	if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(vpnPatience)); err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- serve(conn) }() // ends with the connection
	t.Cleanup(func() {
		conn.Close()
		<-served // cut off, be it by the VPN or by us
	})
}

// openServed connects a computer beyond the VPN to a port that a container
// publishes on this host. What is returned checks that the container is told, soon
// after the VPN has gone.
func openServed(t *testing.T, s *stage.Stage) (wantReset func()) {
	t.Helper()
	const name, port = "served", 8090
	s.Serve(t, name, []string{"-p", fmt.Sprintf("%d:9", port)}, "echo-tcp", "-addr", ":9")
	conn, err := s.Lab.Internet.Dial(t.Context(), "tcp", hostPort(clientV4, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	flow{name, conn}.wantAlive(t)
	return func() {
		t.Helper()
		stage.Eventually(t, followed, "the connection to a published port is reset", func() bool {
			got, err := testimage.Parse([]byte(s.Docker(t, "logs", name)))
			return err == nil && got.Outcome == testimage.Reset
		})
	}
}

// The intranet's computers that say nothing.
const silentV4, silentV6 = "10.99.7.7", "fd99::7"

// openPending has containers connect to computers that do not answer, and get by
// http.docker.internal what never ends. What is returned checks that each is told,
// soon after the VPN has gone.
func openPending(t *testing.T, s *stage.Stage) (wantTold func()) {
	t.Helper()
	want := map[string]testimage.Outcome{ // a get fails with the status of what it is told
		"dials0": testimage.NetUnreachable, "dials1": testimage.NetUnreachable, "gets": testimage.Failed,
	}
	run := func(name string, words ...string) {
		s.Docker(t, slices.Concat([]string{"run", "-d", "--name", name, "-e", "http_proxy=http://http.docker.internal:3128", testimage.Name}, words, []string{"-timeout", "60s"})...)
		t.Cleanup(func() { s.Docker(t, "rm", "-f", name) })
	}
	run("dials0", "dial", "tcp", hostPort(silentV4, 80))
	run("dials1", "dial", "tcp", hostPort(silentV6, 80))
	asked := make(chan struct{})
	never := http.NewServeMux()
	never.HandleFunc("/", func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	ln, err := s.Lab.Internet.Listen("tcp", hostPort(intranetV4, flowPort))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: never}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	run("gets", "get", "http://"+hostPort(intranetV4, flowPort)+"/")
	select {
	case <-asked:
	case <-time.After(vpnPatience):
		t.Fatal("the request does not come")
	}
	for _, addr := range []string{silentV4, silentV6} {
		stage.Eventually(t, vpnPatience, "the dial of "+addr+" leaves", func() bool {
			return strings.Contains(s.Lab.Host.Run(t, "ss", "-Htn", "state", "syn-sent"), addr)
		})
	}
	return func() {
		t.Helper()
		for name, outcome := range want {
			stage.Eventually(t, followed, name+" is told", func() bool {
				return s.Docker(t, "inspect", "-f", "{{.State.Running}}", name) == "false"
			})
			if got, err := testimage.Parse([]byte(s.Docker(t, "logs", name))); err != nil || got.Outcome != outcome || name == "gets" && got.Status != http.StatusBadGateway {
				t.Errorf("%s: %+v (%v), want %s", name, got, err, outcome)
			}
		}
	}
}

// wantReset checks that they are told, soon.
func (d doomed) wantReset(t *testing.T, s *stage.Stage) {
	t.Helper()
	began := time.Now()
	for _, name := range d {
		for s.Docker(t, "inspect", "-f", "{{.State.Running}}", name) == "true" && time.Since(began) < followed {
			time.Sleep(50 * time.Millisecond)
		}
		logs := s.Docker(t, "logs", name)
		if got, err := testimage.Parse([]byte(logs)); err != nil || got.Outcome != testimage.Reset && got.Ends[testimage.Reset] != 1 {
			t.Errorf("%s: %s after the VPN went its connection has not been reset: %s", name, time.Since(began), logs)
		}
		s.Docker(t, "rm", "-f", name)
	}
}
