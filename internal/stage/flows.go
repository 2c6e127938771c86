package stage

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/testimage"
)

// flowsEach is how many flows of a kind are open when something is killed.
const flowsEach = 500

// Sign is what goes over a flow to see that it stands.
const Sign = "still there?"

// Flows are open connections in both directions: a container dials a
// server on the internet, and the LAN's neighbour dials the published ports.
type Flows struct {
	s        *Stage
	held     string // the container that dials
	outbound []net.Conn
	inbound  []net.Conn
	since    time.Time
}

// TCPPorts and udpPorts are published by ServePorts.
var (
	TCPPorts = []uint16{7001, 7002, 7003, 7004}
	udpPorts = []uint16{7101, 7102}
)

// ServePorts starts the containers behind the published ports, which come back
// with their machine.
func ServePorts(t testing.TB, s *Stage) {
	t.Helper()
	serve := func(name, publish, command string) {
		s.Docker(t, "run", "-d", "--name", name, "--restart", "always", "-p", publish, testimage.Name, command, "-addr", ":7")
	}
	for i, port := range TCPPorts {
		serve(fmt.Sprintf("tcp%d", i), fmt.Sprintf("%d:7", port), "echo-tcp")
	}
	for i, port := range udpPorts {
		serve(fmt.Sprintf("udp%d", i), fmt.Sprintf("%d:7/udp", port), "echo-udp")
	}
}

// AnswerWithin waits until all published ports answer and a container reaches
// out.
func AnswerWithin(t testing.TB, s *Stage, limit time.Duration) {
	t.Helper()
	PortsAnswer(t, s, limit)
	Eventually(t, limit, "a container reaches out", func() bool {
		out, code := s.TryDocker(t, "exec", "tcp0", "/bin/toolbox", "get", "http://"+lab.WebV4+"/ip")
		return code == 0 && strings.Contains(out, lab.HostV4)
	})
}

// PortsAnswer waits until all published ports answer, and says when that was.
func PortsAnswer(t testing.TB, s *Stage, limit time.Duration) {
	t.Helper()
	start := time.Now()
	for _, port := range TCPPorts {
		Eventually(t, limit, fmt.Sprintf("port %d answers", port), func() bool {
			conn, err := s.Lab.Neighbour.Dial(t.Context(), "tcp", hostPort(lab.HostV4, port))
			return err == nil && Exchange(conn, "tcp", true, time.Second) == nil
		})
	}
	for _, port := range udpPorts {
		Eventually(t, limit, fmt.Sprintf("port %d/udp answers", port), func() bool {
			conn, err := s.Lab.Neighbour.Dial(t.Context(), "udp", hostPort(lab.HostV4, port))
			return err == nil && Exchange(conn, "udp", true, time.Second) == nil
		})
	}
	t.Logf("all ports answered within %v", time.Since(start).Round(time.Millisecond))
}

// Exchange sends a text and wants it back.
func Exchange(conn net.Conn, text string, last bool, limit time.Duration) error {
	if last {
		defer conn.Close()
	}
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("got %q, want %q", got, text)
	}
	return nil
}

// OpenFlows opens all flows and sends something over each.
func OpenFlows(t testing.TB, s *Stage) *Flows {
	t.Helper()
	// A name of its own: dockerd may keep the endpoint of one that ended on a full disk.
	f := &Flows{s: s, held: "held-" + rand.Text()}
	server, err := s.Lab.Internet.Listen("tcp", hostPort(lab.EmptyV4, 9000))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	s.Docker(t, "run", "-d", "--name", f.held, testimage.Name, "hold", hostPort(lab.EmptyV4, 9000), "-count", strconv.Itoa(flowsEach))
	t.Cleanup(func() {
		s.TryDocker(t, "rm", "-f", f.held)
		for _, conn := range append(f.inbound, f.outbound...) {
			_ = conn.Close()
		}
	})
	for range flowsEach {
		conn, err := server.Accept()
		if err != nil {
			t.Fatal(err)
		}
		f.outbound = append(f.outbound, conn)
	}
	for i := range flowsEach {
		conn, err := s.Lab.Neighbour.Dial(t.Context(), "tcp", hostPort(lab.HostV4, TCPPorts[i%len(TCPPorts)]))
		if err != nil {
			t.Fatal(err)
		}
		f.inbound = append(f.inbound, conn)
	}
	f.since = time.Now() // former ones have ended by now
	f.AllGo(t)
	return f
}

// each calls check for every flow, side by side, and fails for each error.
func (f *Flows) each(t testing.TB, check func(net.Conn) error) {
	t.Helper()
	for _, side := range []struct {
		name  string
		conns []net.Conn
	}{{"outbound", f.outbound}, {"published", f.inbound}} {
		errs := make([]error, len(side.conns))
		var done sync.WaitGroup
		for i, conn := range side.conns {
			done.Go(func() { errs[i] = check(conn) })
		}
		done.Wait()
		bad := 0
		for _, err := range errs {
			if err != nil {
				bad++
			}
		}
		if bad > 0 {
			text := errors.Join(errs...).Error()
			t.Errorf("%d of %d %s flows: %s", bad, len(errs), side.name, text[:min(len(text), 300)])
		}
	}
}

// AllGo fails for each flow that does not carry a new text both ways.
func (f *Flows) AllGo(t testing.TB) {
	t.Helper()
	f.each(t, func(conn net.Conn) error { return Exchange(conn, Sign, false, 10*time.Second) })
}

// NoneGoes fails for each flow that carries a text, and for each whose end
// outside the machine is left without an answer.
func (f *Flows) NoneGoes(t testing.TB) {
	t.Helper()
	f.each(t, func(conn net.Conn) error {
		err := Exchange(conn, Sign, false, 10*time.Second)
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("it did not end: %v", err)
		}
		return nil
	})
}

// AllEndOutside fails for each flow whose end outside the machine does not see
// RST or FIN within the limit.
func (f *Flows) AllEndOutside(t testing.TB, killed time.Time, limit time.Duration) {
	t.Helper()
	f.each(t, func(conn net.Conn) error {
		_ = conn.SetReadDeadline(killed.Add(limit))
		n, err := conn.Read(make([]byte, 1))
		if n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("it did not end within %v: %d bytes, %w", limit, n, err)
		}
		return nil
	})
	t.Logf("all flows ended outside within %v", time.Since(killed).Round(time.Millisecond))
}

// AllEnd fails for each flow that does not end on both sides within the limit.
// It is called when the engine can be asked again: who was in a container has
// written down when that was.
func (f *Flows) AllEnd(t testing.TB, killed time.Time, limit time.Duration) {
	t.Helper()
	Eventually(t, limit+10*time.Second, "the container that dialled has ended", func() bool {
		out, code := f.s.TryDocker(t, "inspect", "-f", "{{.State.Running}}", f.held)
		return code == 0 && strings.TrimSpace(out) == "false"
	})
	out := f.s.Docker(t, "logs", f.held)
	result, err := testimage.Parse([]byte(out))
	if err != nil || result.Ends[testimage.Reset]+result.Ends[testimage.Closed] != flowsEach {
		t.Errorf("outbound flows in the container ended as %v (%v), want %d by RST or FIN", result.Ends, err, flowsEach)
	}
	at := f.s.Docker(t, "inspect", "-f", "{{.State.FinishedAt}}", f.held)
	finished, err := time.Parse(time.RFC3339Nano, at)
	if err != nil || finished.Sub(killed) > limit {
		t.Errorf("the last flow in the container ended %v after the kill (%v), want %v at most", finished.Sub(killed), err, limit)
	}
	t.Logf("outbound flows ended in the container within %v: %v", finished.Sub(killed).Round(time.Millisecond), result.Ends)
	f.publishedEnd(t, killed, limit)
	f.s.Docker(t, "rm", f.held)
}

// publishedEnd reads what the containers behind the ports say: a line for each
// connection, with the time.
func (f *Flows) publishedEnd(t testing.TB, killed time.Time, limit time.Duration) {
	t.Helper()
	ended := func() (count int, last time.Time) {
		for i := range TCPPorts {
			out := f.s.Docker(t, "logs", "-t", "--since", f.since.Format(time.RFC3339Nano), fmt.Sprintf("tcp%d", i))
			for line := range strings.Lines(out) {
				stamp, text, _ := strings.Cut(line, " ")
				at, err := time.Parse(time.RFC3339Nano, stamp)
				result, parseErr := testimage.Parse([]byte(text))
				if err != nil || parseErr != nil || result.Bytes == 0 || result.Bytes%int64(len(Sign)) != 0 {
					continue // none of these: over each went nothing but the Sign
				}
				if result.Outcome == testimage.Reset || result.Outcome == testimage.Closed {
					count++
				}
				if at.After(last) {
					last = at
				}
			}
		}
		return count, last
	}
	Eventually(t, 10*time.Second, "published flows end in the containers", func() bool {
		count, _ := ended()
		return count == flowsEach
	})
	_, last := ended()
	if took := last.Sub(killed); took > limit {
		t.Errorf("the last published flow ended in its container %v after the kill, want %v at most", took, limit)
	} else {
		t.Logf("published flows ended in the containers within %v", took.Round(time.Millisecond))
	}
}
