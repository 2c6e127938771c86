package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// place is where the toolbox can be run: a container, or a computer of the lab.
type place struct {
	toolbox string
	shell   func(ctx context.Context, script string) *exec.Cmd
}

// inContainer starts a container that stays until the test ends, with flags of
// `docker run`, and is the place in it.
func inContainer(t *testing.T, s *stage.Stage, name string, flags ...string) place {
	t.Helper()
	s.Docker(t, append(append([]string{"run", "-d", "--name", name}, flags...), testimage.Name, "sleep", "1h")...)
	t.Cleanup(func() { s.Docker(t, "rm", "-f", name) })
	return place{"/bin/toolbox", func(ctx context.Context, script string) *exec.Cmd {
		return s.Command(ctx, "docker", "exec", name, "sh", "-c", script)
	}}
}

// onNode is the toolbox as a program of one of the lab's computers.
func onNode(t *testing.T, s *stage.Stage, node *lab.Node) place {
	t.Helper()
	path := filepath.Join(s.Lab.Dir, "toolbox")
	if err := testimage.Build(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	return place{path, func(ctx context.Context, script string) *exec.Cmd { return node.Command(ctx, "sh", "-c", script) }}
}

// run runs one command of the toolbox, words separated by spaces.
func (p place) run(t *testing.T, command string) testimage.Result {
	t.Helper()
	return p.each(t, []string{command})[0]
}

// each runs commands one after the other.
func (p place) each(t *testing.T, commands []string) []testimage.Result {
	t.Helper()
	return p.start(t, commands, "")()
}

// together runs commands at the same time.
func (p place) together(t *testing.T, commands []string) []testimage.Result {
	t.Helper()
	return p.start(t, commands, "&")()
}

// batchTimeout bounds all the commands of one script.
const batchTimeout = 2 * time.Minute

// start runs commands in one shell, each followed by suffix, and returns what
// waits for their results. Each prints its number before its result, for they
// may end in any order.
func (p place) start(t *testing.T, commands []string, suffix string) (wait func() []testimage.Result) {
	t.Helper()
	var script, out, errOut strings.Builder
	for i, command := range commands {
		fmt.Fprintf(&script, "{ r=$(%s %s); printf '%d %%s\\n' \"$r\"; } %s\n", p.toolbox, command, i, suffix)
	}
	script.WriteString("wait")
	ctx, cancel := context.WithTimeout(t.Context(), batchTimeout)
	cmd := p.shell(ctx, script.String())
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := sync.OnceValue(func() error {
		defer cancel()
		return cmd.Wait()
	})
	t.Cleanup(func() { _ = ended() }) // t's context is done by then
	return func() []testimage.Result {
		t.Helper()
		if err := ended(); err != nil {
			t.Fatalf("run %s: %v\n%s%s", &script, err, &out, &errOut)
		}
		return collect(t, commands, out.String())
	}
}

// collect reads what a script of start printed.
func collect(t *testing.T, commands []string, out string) []testimage.Result {
	t.Helper()
	results := make([]testimage.Result, len(commands))
	for line := range strings.Lines(out) {
		number, text, _ := strings.Cut(line, " ")
		i, err := strconv.Atoi(number)
		if err != nil || i >= len(commands) {
			t.Fatalf("unexpected line %q of %d commands", line, len(commands))
		}
		if results[i], err = testimage.Parse([]byte(text)); err != nil {
			t.Fatalf("toolbox %s: %v", commands[i], err)
		}
	}
	for i, r := range results {
		if r.Command == "" {
			t.Fatalf("toolbox %s said nothing", commands[i])
		}
	}
	return results
}

// What happens to a connection between host and internet happens to it in a
// container, in the same way.
func TestFaithful(t *testing.T) {
	s := stage.Up(t)
	direct := onNode(t, s, s.Lab.Host)
	bridge := inContainer(t, s, "bridge")
	for name, from := range map[string]place{
		"default bridge": bridge,
		"host network":   inContainer(t, s, "hostnet", "--network", "host"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("refusals", func(t *testing.T) { checkRefusals(t, from, direct) })
			for _, f := range families() {
				t.Run(f.name, func(t *testing.T) {
					t.Run("half-close", func(t *testing.T) { checkHalfClose(t, s, f, from) })
					t.Run("reset", func(t *testing.T) { checkReset(t, s, f, from) })
				})
			}
		})
	}
	t.Run("black hole", func(t *testing.T) { checkBlackHole(t, s, "bridge", bridge) })
	t.Run("50 streams", func(t *testing.T) { checkParallel(t, s, bridge) })
	t.Run("1 GB", func(t *testing.T) { checkGigabyte(t, s, bridge) })
	t.Run("large segments", func(t *testing.T) { checkLargeSegments(t, s, "bridge", bridge) })
	t.Run("cut link", func(t *testing.T) { checkCutLink(t, s, bridge, direct) })
}

// closedPort is one where nothing listens.
const closedPort = 9

// refusal is a destination that does not serve, and what a program on the host
// is told by its kernel.
type refusal struct {
	name, addr string
	want       testimage.Outcome
	ports      bool // it is a port that is refused, the address answers ping
}

func refusals(f family) []refusal {
	all := []refusal{
		{"a closed port of a server", f.web, testimage.Refused, true},
		{"a closed port of the host", f.host, testimage.Refused, true},
		{"a closed port of another address of the host", f.alias, testimage.Refused, true},
	}
	if f.index == 0 {
		return append(all,
			refusal{"net unreachable", lab.NetUnreachableV4, testimage.NetUnreachable, false},
			refusal{"host unreachable", lab.HostUnreachableV4, testimage.HostUnreachable, false},
			refusal{"prohibited", lab.ProhibitedV4, testimage.HostUnreachable, false}, // Linux: icmp_err_convert
			refusal{"black hole", lab.BlackHoleV4, testimage.Timeout, false},
		)
	}
	return append(all,
		refusal{"no route", lab.NetUnreachableV6, testimage.NetUnreachable, false},
		refusal{"address unreachable", lab.HostUnreachableV6, testimage.HostUnreachable, false},
		refusal{"prohibited", lab.ProhibitedV6, testimage.Prohibited, false}, // Linux: tab_unreach
		refusal{"black hole", lab.BlackHoleV6, testimage.Timeout, false},
	)
}

const (
	// shortTimeout ends a dial into a black hole.
	shortTimeout = 1500 * time.Millisecond
	// promptly is less than a client takes that missed the first answer: it
	// sends its SYN again after a second.
	promptly = time.Second
)

// checkRefusals dials from a container what refuses, with TCP, UDP and ping,
// and wants what a program on the host is told.
func checkRefusals(t *testing.T, from, direct place) {
	t.Helper()
	var names, commands []string
	var want []testimage.Outcome
	for _, f := range families() {
		for _, r := range refusals(f) {
			add := func(command string) {
				names = append(names, f.name+", "+r.name)
				commands = append(commands, command+" -timeout "+shortTimeout.String())
				want = append(want, r.want)
			}
			add("dial tcp " + hostPort(r.addr, closedPort))
			add("dial udp " + hostPort(r.addr, closedPort))
			if !r.ports {
				add("ping " + r.addr)
			}
		}
	}
	onHost, inside := direct.together(t, commands), from.together(t, commands)
	for i, got := range inside {
		if onHost[i].Outcome != want[i] {
			t.Errorf("%s: %s on the host is %+v, want %s", names[i], commands[i], onHost[i], want[i])
		}
		if got.Outcome != want[i] {
			t.Errorf("%s: %s is %+v, want %s as on the host", names[i], commands[i], got, want[i])
		}
		if silent := want[i] == testimage.Timeout; silent && got.Duration() < shortTimeout || !silent && got.Duration() >= promptly {
			t.Errorf("%s: %s took %s", names[i], commands[i], got.Duration())
		}
	}
	for _, network := range []string{"tcp", "udp"} {
		command := fmt.Sprintf("dial %s host.docker.internal:%d", network, closedPort)
		if got := from.run(t, command); got.Outcome != testimage.Refused || got.Duration() >= promptly {
			t.Errorf("%s: %+v, want refused", command, got)
		}
	}
}

// blackHoled is how many dials hang while others must go on.
const blackHoled = 20

// While many dials hang, the host's sockets hang with them, and other flows work.
func checkBlackHole(t *testing.T, s *stage.Stage, container string, from place) {
	t.Helper()
	var hanging, others []string
	for i := range blackHoled {
		addr := []string{lab.BlackHoleV4, lab.BlackHoleV6}[i%2]
		hanging = append(hanging, "dial tcp "+hostPort(addr, 80)+" -timeout 60s")
	}
	wait := from.start(t, hanging, "&")
	stage.Eventually(t, 10*time.Second, "the host dials the black hole", func() bool { return blackDials(t, s) == blackHoled })
	for _, f := range families() {
		others = append(others, "get http://"+hostPort(f.web, 80)+"/", "udp-send "+hostPort(f.web, 7), "ping "+f.web)
	}
	others = append(others, "lookup web.internet.test")
	for i, got := range from.each(t, others) {
		if got.Outcome != testimage.OK || got.Duration() >= promptly {
			t.Errorf("%s beside %d hanging dials: %+v", others[i], blackHoled, got)
		}
	}
	s.Docker(t, "exec", container, "sh", "-c",
		`for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline | grep -q '^/bin/toolbox dial' && kill ${p#/proc/}; done; true`)
	for i, got := range wait() {
		if got.Outcome != testimage.Failed || !strings.Contains(got.Error, "canceled") {
			t.Errorf("%s: %+v, want no answer until it was called off", hanging[i], got)
		}
	}
}

// blackDials counts the host's connections to the black hole.
func blackDials(t *testing.T, s *stage.Stage) (n int) {
	t.Helper()
	socks, err := s.Lab.Host.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	for _, sock := range socks {
		addr := sock.Remote.Addr().String()
		if sock.Proto == portolan.TCP && (addr == lab.BlackHoleV4 || addr == lab.BlackHoleV6) {
			n++
		}
	}
	return n
}

// serveTCP serves each connection to addr on node until the test ends.
func serveTCP(t *testing.T, node *lab.Node, addr string, serve func(*net.TCPConn)) {
	t.Helper()
	ln, err := node.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		open []net.Conn // guarded by mu
	)
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // ln is closed
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, conn := range open {
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// awaited returns what comes from a channel, or ends the test.
func awaited[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: nothing after 10 s", what)
		panic("unreachable")
	}
}

// Ports of the internet's web address for the servers of these tests.
const (
	portAfterEOF = 7001 + iota
	portEOFFirst
	portResets
	portResetsAtOnce
	portIsReset
	portSends
	portReceives
	portPaced
)

// A FIN crosses alone: the other direction goes on.
func checkHalfClose(t *testing.T, s *stage.Stage, f family, from place) {
	t.Helper()
	// The container ends first; the server answers only what it has got whole.
	serveTCP(t, s.Lab.Internet, hostPort(f.web, portAfterEOF), func(c *net.TCPConn) {
		if data, err := io.ReadAll(c); err == nil {
			_, _ = c.Write(data)
		}
	})
	if got := from.run(t, "half-close "+hostPort(f.web, portAfterEOF)+" -send 100000"); got.Outcome != testimage.OK || got.Bytes != 100000 {
		t.Errorf("the container ends first: %+v", got)
	}
	// The server ends first, and the container answers with the digest then.
	const size = 100_000
	answers := make(chan string, 1)
	serveTCP(t, s.Lab.Internet, hostPort(f.web, portEOFFirst), func(c *net.TCPConn) {
		_, err := io.CopyN(c, testimage.Stream(), size)
		answer, readErr := []byte(nil), c.CloseWrite()
		if err = errors.Join(err, readErr); err == nil {
			answer, err = io.ReadAll(c)
		}
		answers <- fmt.Sprintf("%s %v", answer, err)
	})
	got := from.run(t, "stream-recv "+hostPort(f.web, portEOFFirst))
	if want := streamDigest(size); got.Outcome != testimage.OK || got.SHA256 != want || awaited(t, answers, "the server's end") != want+" <nil>" {
		t.Errorf("the server ends first: %+v, want SHA-256 %s on both sides", got, want)
	}
}

// An RST stays an RST, whoever sends it.
func checkReset(t *testing.T, s *stage.Stage, f family, from place) {
	t.Helper()
	reset := func(c *net.TCPConn) { _ = c.SetLinger(0) } // and closed
	serveTCP(t, s.Lab.Internet, hostPort(f.web, portResetsAtOnce), reset)
	serveTCP(t, s.Lab.Internet, hostPort(f.web, portResets), func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1))
		reset(c)
	})
	for _, command := range []string{
		"dial tcp " + hostPort(f.web, portResets) + " -send 1 -expect-echo",
		"dial tcp " + hostPort(f.web, portResetsAtOnce) + " -expect-echo",
	} {
		if got := from.run(t, command); got.Outcome != testimage.Reset {
			t.Errorf("%s: %+v, want reset", command, got)
		}
	}
	ends := make(chan error, 1)
	serveTCP(t, s.Lab.Internet, hostPort(f.web, portIsReset), func(c *net.TCPConn) {
		_, err := io.Copy(c, c)
		ends <- err
	})
	for _, size := range []string{"0", "1", "100000"} {
		if got := from.run(t, "rst "+hostPort(f.web, portIsReset)+" -send "+size); got.Outcome != testimage.OK {
			t.Fatalf("rst after %s bytes: %+v", size, got)
		}
		if err := awaited(t, ends, "the server's end"); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the container resets after %s bytes: the server sees %v, want a reset", size, err)
		}
	}
}

// streamDigest is the SHA-256 of the first n bytes of the test stream.
func streamDigest(n int64) string {
	sum := sha256.New()
	_, _ = io.CopyN(sum, testimage.Stream(), n) // never ends, never fails
	return hex.EncodeToString(sum.Sum(nil))
}

// serveStreams serves the other ends of stream-recv and stream-send: one port
// sends size bytes, one receives and answers with the digest. No byte flows
// before begin is closed; started is called for each connection.
func serveStreams(t *testing.T, s *stage.Stage, f family, size int64, begin <-chan struct{}, started func()) {
	t.Helper()
	serveTCP(t, s.Lab.Internet, hostPort(f.web, portSends), func(c *net.TCPConn) {
		started()
		<-begin
		if _, err := io.CopyN(c, testimage.Stream(), size); err == nil && c.CloseWrite() == nil {
			_, _ = io.Copy(io.Discard, c)
		}
	})
	serveTCP(t, s.Lab.Internet, hostPort(f.web, portReceives), func(c *net.TCPConn) {
		started()
		<-begin
		sum := sha256.New()
		if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{c}, make([]byte, 1<<18)); err == nil {
			fmt.Fprintf(c, "%x", sum.Sum(nil))
		}
	})
}

// A gigabyte crosses unharmed, each way.
func checkGigabyte(t *testing.T, s *stage.Stage, from place) {
	t.Helper()
	const size = 1_000_000_000
	begin := make(chan struct{})
	close(begin)
	want := streamDigest(size)
	for _, f := range families() {
		serveStreams(t, s, f, size, begin, func() {})
	}
	for _, command := range []string{
		"stream-recv " + hostPort(lab.WebV4, portSends),
		fmt.Sprintf("stream-send %s -bytes %d", hostPort(lab.WebV6, portReceives), int64(size)),
	} {
		// stream-send is not ok when the receiver's digest differs.
		if got := from.run(t, command); got.Outcome != testimage.OK || got.Bytes != size || got.SHA256 != want {
			t.Errorf("%s: %+v, want SHA-256 %s", command, got, want)
		}
	}
}

// Fifty streams of one container cross at the same time.
func checkParallel(t *testing.T, s *stage.Stage, from place) {
	t.Helper()
	const (
		streams = 50
		size    = 2_000_000
	)
	var (
		connected atomic.Int32
		begin     = make(chan struct{})
		commands  []string
	)
	for _, f := range families() {
		serveStreams(t, s, f, size, begin, func() {
			if connected.Add(1) == streams {
				close(begin)
			}
		})
	}
	for i := range streams {
		f := families()[i%2]
		command := "stream-recv " + hostPort(f.web, portSends)
		if i%4 >= 2 {
			command = fmt.Sprintf("stream-send %s -bytes %d", hostPort(f.web, portReceives), size)
		}
		commands = append(commands, command+" -timeout 60s")
	}
	want := streamDigest(size)
	for i, got := range from.together(t, commands) {
		if got.Outcome != testimage.OK || got.SHA256 != want {
			t.Errorf("stream %d, %s: %+v, want SHA-256 %s", i, commands[i], got, want)
		}
	}
}

// pacedStream is a server's stream in two halves.
type pacedStream struct {
	sent    atomic.Int64
	release chan struct{} // closed: the second half may go
}

const pacedHalf = 32 << 20

func (p *pacedStream) serve(c *net.TCPConn) {
	count := io.TeeReader(testimage.Stream(), p)
	if _, err := io.CopyN(c, count, pacedHalf); err != nil {
		return
	}
	<-p.release
	if _, err := io.CopyN(c, count, pacedHalf); err == nil && c.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, c)
	}
}

// Write counts what is sent.
func (p *pacedStream) Write(b []byte) (int, error) {
	p.sent.Add(int64(len(b)))
	return len(b), nil
}

// stands reports whether the second half has begun and goes no further.
func (p *pacedStream) stands() bool {
	before := p.sent.Load()
	time.Sleep(300 * time.Millisecond)
	return before > pacedHalf && before == p.sent.Load()
}

// Streams survive a link that is cut and comes back. What is dialled meanwhile
// ends as on the host, and later dials find the link.
func checkCutLink(t *testing.T, s *stage.Stage, from, direct place) {
	t.Helper()
	uplink, cable := s.Lab.Link("uplink"), s.Lab.Link("host")
	for i, cut := range []struct {
		name     string
		down, up func() error
		patience time.Duration // of a dial: the kernel gives a neighbour up after 3 s
	}{
		{"in silence", func() error { return uplink.SetLoss(1) }, func() error { return uplink.SetLoss(0) }, shortTimeout},
		{"the cable is pulled", cable.Down, cable.Up, 15 * time.Second},
	} {
		t.Run(cut.name, func(t *testing.T) {
			var (
				streams              []*pacedStream
				receive, dial, fetch []string
				want                 = streamDigest(2 * pacedHalf)
			)
			for _, f := range families() {
				stream, addr := &pacedStream{release: make(chan struct{})}, hostPort(f.web, portPaced+uint16(i))
				serveTCP(t, s.Lab.Internet, addr, stream.serve)
				streams = append(streams, stream)
				receive = append(receive, "stream-recv "+addr+" -timeout 60s")
				dial = append(dial, fmt.Sprintf("dial tcp %s -timeout %s", hostPort(f.web, 80), cut.patience))
				fetch = append(fetch, "get http://"+hostPort(f.web, 80)+"/")
			}
			wait := from.start(t, receive, "&")
			for _, stream := range streams {
				stage.Eventually(t, 10*time.Second, "half of the stream left", func() bool { return stream.sent.Load() >= pacedHalf })
			}
			if err := cut.down(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cut.up() })
			for _, stream := range streams {
				close(stream.release)
			}
			waitDirect := direct.start(t, dial, "&")
			inside := from.together(t, dial)
			for i, onHost := range waitDirect() {
				if got := inside[i]; got.Outcome != onHost.Outcome || got.Outcome == testimage.Connected {
					t.Errorf("%s over the cut link: %+v, on the host %+v", dial[i], got, onHost)
				}
			}
			for _, stream := range streams {
				stage.Eventually(t, 10*time.Second, "the stream stands", stream.stands)
				if stream.sent.Load() >= 2*pacedHalf {
					t.Fatal("the link was not cut")
				}
			}
			if err := cut.up(); err != nil {
				t.Fatal(err)
			}
			for i, got := range wait() {
				if got.Outcome != testimage.OK || got.SHA256 != want {
					t.Errorf("%s after the link came back: %+v, want SHA-256 %s", receive[i], got, want)
				}
			}
			for i, got := range from.each(t, fetch) {
				if got.Outcome != testimage.OK {
					t.Errorf("%s after the link came back: %+v", fetch[i], got)
				}
			}
		})
	}
}
