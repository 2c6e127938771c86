//go:build linux

package testimage_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/testimage"
)

// binary builds the toolbox once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "portolan-toolbox-")
	if err != nil {
		return "", err
	}
	toolbox := filepath.Join(dir, "toolbox")
	return toolbox, testimage.Build(testContext, toolbox)
})

// run runs a command of the toolbox to its end.
func run(t *testing.T, args ...string) testimage.Result {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), toolbox(t), args...).Output()
	r, parseErr := testimage.Parse(out)
	if parseErr != nil {
		t.Fatalf("toolbox %s: %v, %v", strings.Join(args, " "), err, parseErr)
	}
	return r
}

// expect runs a command and checks its outcome.
func expect(t *testing.T, want testimage.Outcome, args ...string) testimage.Result {
	t.Helper()
	r := run(t, args...)
	if r.Outcome != want {
		t.Errorf("toolbox %s: %+v, want %s", strings.Join(args, " "), r, want)
	}
	return r
}

func toolbox(t *testing.T) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// server is a command of the toolbox that listens.
type server struct {
	addr  string
	lines *bufio.Scanner
}

// serve starts a listening command, which ends with the test.
func serve(t *testing.T, args ...string) *server {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), toolbox(t), args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // t's context is done by then
	s := &server{lines: bufio.NewScanner(out)}
	s.addr = s.next(t).Local
	return s
}

// next is the server's next line.
func (s *server) next(t *testing.T) testimage.Result {
	t.Helper()
	if !s.lines.Scan() {
		t.Fatalf("server said nothing more: %v", s.lines.Err())
	}
	r, err := testimage.Parse(s.lines.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// streamDigest is the SHA-256 of the first n bytes of the test stream.
func streamDigest(n int64) string {
	sum := sha256.New()
	_, _ = io.CopyN(sum, testimage.Stream(), n)
	return hex.EncodeToString(sum.Sum(nil))
}

func TestWeb(t *testing.T) {
	web := serve(t, "web", "-addr", "127.0.0.1:0", "-name", "me")
	r := expect(t, testimage.OK, "get", "http://"+web.addr+"/path")
	var v testimage.Visitor
	if err := json.Unmarshal([]byte(r.Body), &v); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(v.Client, "127.0.0.1:") || v.Local != web.addr || v.Name != "me" || v.Path != "/path" || r.Status != 200 {
		t.Errorf("%+v, %+v", r, v)
	}
	if r := expect(t, testimage.OK, "get", "http://"+web.addr+"/ip"); r.Body != "127.0.0.1\n" {
		t.Errorf("/ip: %q", r.Body)
	}
	if r := expect(t, testimage.OK, "get", "http://"+web.addr+"/bytes/100000"); r.Bytes != 100000 || r.SHA256 != streamDigest(100000) || r.Body != "" {
		t.Errorf("/bytes: %+v", r)
	}
	if r := expect(t, testimage.Failed, "get", "http://"+web.addr+"/bytes/x"); r.Status != 400 {
		t.Errorf("/bytes/x: %+v", r)
	}
}

func TestDial(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		tcp := serve(t, "echo-tcp", "-addr", addr)
		expect(t, testimage.Connected, "dial", "tcp", tcp.addr)
		expect(t, testimage.Connected, "dial", "tcp", tcp.addr, "-send", "70000", "-expect-echo")
		udp := serve(t, "echo-udp", "-addr", addr)
		expect(t, testimage.Connected, "dial", "udp", udp.addr, "-send", "20", "-expect-echo")
		for _, size := range []string{"0", "1", "1400", "65507"} {
			expect(t, testimage.OK, "udp-send", udp.addr, "-size", size)
		}
		train := serve(t, "echo-udp", "-addr", addr, "-mode", "train")
		if r := expect(t, testimage.OK, "udp-train", train.addr); r.Count != 1 || r.Bytes != 40*1400+700 {
			t.Errorf("a train comes back in %d messages with %d bytes", r.Count, r.Bytes)
		}
		if r := expect(t, testimage.OK, "udp-train", udp.addr); r.Count != 41 {
			t.Errorf("a train comes back from a server that merges nothing in %d messages", r.Count)
		}
		expect(t, testimage.TooBig, "udp-send", udp.addr, "-size", "65528")
	}
}

func TestDialRefused(t *testing.T) {
	// A port that was free a moment ago.
	free := func(network string) string {
		t.Helper()
		if network == "udp" {
			conn, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			return conn.LocalAddr().String()
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listener.Close()
		return listener.Addr().String()
	}
	expect(t, testimage.Refused, "dial", "tcp", free("tcp"))
	expect(t, testimage.Refused, "dial", "udp", free("udp"))
	expect(t, testimage.Refused, "get", "http://"+free("tcp"))
}

func TestDialSilence(t *testing.T) {
	silent := serve(t, "echo-udp", "-addr", "127.0.0.1:0", "-mode", "silent")
	r := expect(t, testimage.Timeout, "dial", "udp", silent.addr, "-timeout", "300ms")
	if r.Elapsed < 300 || r.Elapsed > 3000 {
		t.Errorf("took %d ms", r.Elapsed)
	}
	if seen := silent.next(t); seen.Remote != r.Local {
		t.Errorf("the server saw %s, the client is %s", seen.Remote, r.Local)
	}
}

func TestWhoAmI(t *testing.T) {
	udp := serve(t, "echo-udp", "-addr", "127.0.0.1:0", "-mode", "whoami")
	if r := expect(t, testimage.Connected, "dial", "udp", udp.addr, "-from", "127.0.0.2"); r.Body != r.Local+"\n" || !strings.HasPrefix(r.Local, "127.0.0.2:") {
		t.Errorf("%+v", r)
	}
}

func TestEndOfConnection(t *testing.T) {
	late := serve(t, "echo-tcp", "-addr", "127.0.0.1:0", "-mode", "after-eof")
	if r := expect(t, testimage.OK, "half-close", late.addr, "-send", "5000"); r.Bytes != 5000 {
		t.Errorf("%+v", r)
	}
	resets := serve(t, "echo-tcp", "-addr", "127.0.0.1:0", "-mode", "rst")
	expect(t, testimage.Reset, "dial", "tcp", resets.addr, "-send", "1", "-expect-echo")
	echo := serve(t, "echo-tcp", "-addr", "127.0.0.1:0")
	expect(t, testimage.OK, "half-close", echo.addr)
	if r := echo.next(t); r.Outcome != testimage.Closed || r.Bytes != 16 {
		t.Errorf("after FIN: %+v", r)
	}
	expect(t, testimage.OK, "rst", echo.addr)
	if r := echo.next(t); r.Outcome != testimage.Reset {
		t.Errorf("after RST: %+v", r)
	}
	names := serve(t, "echo-tcp", "-addr", "127.0.0.1:0", "-mode", "whoami")
	if r := expect(t, testimage.OK, "hold", names.addr, "-count", "3"); r.Ends[testimage.Closed] != 3 || r.Bytes == 0 {
		t.Errorf("held until FIN: %+v", r)
	}
}

func TestStream(t *testing.T) {
	const size = 3 << 20
	receiver := serve(t, "stream-recv", "127.0.0.1:0", "-listen")
	sent := expect(t, testimage.OK, "stream-send", receiver.addr, "-bytes", "3145728")
	if got := receiver.next(t); got.Bytes != size || got.SHA256 != streamDigest(size) || sent.SHA256 != got.SHA256 {
		t.Errorf("sent %+v, got %+v", sent, got)
	}
	sender := serve(t, "stream-send", "127.0.0.1:0", "-listen", "-bytes", "10")
	if got := expect(t, testimage.OK, "stream-recv", sender.addr); got.SHA256 != streamDigest(10) {
		t.Errorf("%+v", got)
	}
}

func TestPing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs raw sockets")
	}
	for _, addr := range []string{"127.0.0.1", "::1"} {
		if r := expect(t, testimage.OK, "ping", addr, "-raw", "-size", "2000"); r.Bytes != 2000 || r.RTT <= 0 {
			t.Errorf("%+v", r)
		}
	}
}

func TestForgeUDP(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs raw sockets")
	}
	for addr, source := range map[string]string{"127.0.0.1:0": "127.9.9.9", "[::1]:0": "::1"} {
		udp := serve(t, "echo-udp", "-addr", addr)
		expect(t, testimage.OK, "forge-udp", "-src", source, "-dst", udp.addr, "-sport", "1234")
		if r := udp.next(t); r.Remote != net.JoinHostPort(source, "1234") || r.Bytes != 6 {
			t.Errorf("the server saw %+v", r)
		}
	}
}

func TestScan(t *testing.T) {
	web := netip.MustParseAddrPort(serve(t, "web", "-addr", "127.0.0.9:0").addr)
	first, last := max(web.Port()-50, 1), min(web.Port(), 65485)+50
	r := expect(t, testimage.OK, "scan", "127.0.0.9", "-first", strconv.Itoa(int(first)), "-last", strconv.Itoa(int(last)))
	// Others may listen on all addresses at the same time; what is ours must be seen.
	if !slices.Contains(r.Answers, strconv.Itoa(int(web.Port()))+" connected") || r.Bytes != int64(last-first+1) {
		t.Errorf("a web server on port %d: %+v", web.Port(), r)
	}
	if r := expect(t, testimage.OK, "scan", "127.0.0.9", "-first", "1", "-last", "1"); len(r.Answers) != 0 || r.Bytes != 1 {
		t.Errorf("nobody on port 1: %+v", r)
	}
}

func TestScanUDP(t *testing.T) {
	udp := netip.MustParseAddrPort(serve(t, "echo-udp", "-addr", "127.0.0.9:0").addr)
	r := expect(t, testimage.OK, "scan-udp", "127.0.0.9", "-fence", udp.String())
	if !slices.Contains(r.Answers, strconv.Itoa(int(udp.Port()))) || r.Bytes != 65535 {
		t.Errorf("an echo server on port %d: %+v", udp.Port(), r)
	}
	silent := serve(t, "echo-udp", "-addr", "127.0.0.9:0", "-mode", "silent").addr
	if r := expect(t, testimage.Timeout, "scan-udp", "127.0.0.9", "-fence", silent, "-timeout", "300ms"); r.Bytes == 65535 {
		t.Errorf("without an answer of the fence: %+v", r)
	}
}

func TestIfaces(t *testing.T) {
	for _, i := range expect(t, testimage.OK, "ifaces").Ifaces {
		if i.Name == "lo" && i.Up && i.MTU > 0 && strings.Contains(strings.Join(i.Addresses, " "), "127.0.0.1/8") {
			return
		}
	}
	t.Error("no lo")
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"fly"}, {"dial"}, {"dial", "tcp", "127.0.0.1:1", "-x"}, {"sleep"}} {
		cmd := exec.CommandContext(t.Context(), toolbox(t), args...)
		if err := cmd.Run(); cmd.ProcessState.ExitCode() != 2 {
			t.Errorf("toolbox %s: %v, want exit status 2", strings.Join(args, " "), err)
		}
	}
	expect(t, testimage.OK, "true")
	expect(t, testimage.OK, "sleep", "1ms")
	expect(t, testimage.Failed, "sleep", "long")
}

// zone answers a few names, over UDP only with what fits.
func zone(t *testing.T) string {
	t.Helper()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		answer := new(dns.Msg).SetReply(query)
		switch name := query.Question[0].Name; name {
		case "missing.test.":
			answer.Rcode = dns.RcodeNameError
		case "broken.test.":
			answer.Rcode = dns.RcodeServerFailure
		case "empty.test.":
		default:
			for record := range strings.SplitSeq(strings.ReplaceAll(records, "@", name), "\n") {
				rr, err := dns.NewRR(record)
				if err != nil {
					panic(err)
				}
				if rr.Header().Rrtype == query.Question[0].Qtype {
					answer.Answer = append(answer.Answer, rr)
				}
			}
		}
		if w.LocalAddr().Network() == "udp" {
			size := 512
			if opt := query.IsEdns0(); opt != nil {
				size = int(opt.UDPSize())
			}
			answer.Truncate(size)
		}
		_ = w.WriteMsg(answer)
	})
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", packets.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: listener, Handler: handler}} {
		var served sync.WaitGroup
		ready := make(chan struct{})
		server.NotifyStartedFunc = func() { close(ready) }
		served.Go(func() { _ = server.ActivateAndServe() })
		<-ready
		t.Cleanup(func() { _ = server.Shutdown(); served.Wait() })
	}
	return packets.LocalAddr().String()
}

var records = strings.Join([]string{
	"@ A 192.0.2.1", "@ AAAA 2001:db8::1", "@ MX 10 mail.test.", "@ SRV 1 2 3 srv.test.", "@ PTR ptr.test.", "@ NS ns.test.",
	"@ SOA ns.test. root.test. 7 1 1 1 1", `@ CAA 0 issue "ca.test"`, `@ HTTPS 1 . alpn="h2"`, `@ CNAME other.test.`,
	`@ TXT "` + strings.Repeat("x", 250) + `"`, `@ TXT "` + strings.Repeat("y", 250) + `"`, `@ TXT "` + strings.Repeat("z", 250) + `"`,
}, "\n")

func TestLookup(t *testing.T) {
	server := zone(t)
	for kind, want := range map[string]string{
		"A": "A 192.0.2.1", "aaaa": "AAAA 2001:db8::1", "MX": "MX 10 mail.test.", "SRV": "SRV 1 2 3 srv.test.",
		"PTR": "PTR ptr.test.", "NS": "NS ns.test.", "SOA": "SOA ns.test. root.test. 7", "CNAME": "CNAME other.test.",
		"HTTPS": "HTTPS 1 . key1=026832", "type257": "CAA 0005697373756563612e74657374",
	} {
		if r := expect(t, testimage.OK, "lookup", "www.test", kind, "-server", server); strings.Join(r.Answers, ",") != want {
			t.Errorf("%s: %q, want %q", kind, r.Answers, want)
		}
	}
	if r := expect(t, testimage.OK, "lookup", "www.test", "TXT", "-server", server); len(r.Answers) != 3 || r.Truncated {
		t.Errorf("TXT: %+v", r)
	}
	if r := expect(t, testimage.OK, "lookup", "www.test", "TXT", "-server", server, "-bufsize", "0"); len(r.Answers) != 3 || !r.Truncated {
		t.Errorf("TXT without EDNS0: %+v", r)
	}
	expect(t, testimage.OK, "lookup", "www.test", "A", "-server", server, "-tcp")
	expect(t, testimage.NoName, "lookup", "missing.test", "A", "-server", server)
	expect(t, testimage.ServFail, "lookup", "broken.test", "A", "-server", server)
	expect(t, testimage.NoData, "lookup", "empty.test", "A", "-server", server)
	if r := expect(t, testimage.OK, "lookup", "localhost"); !strings.Contains(strings.Join(r.Answers, " "), "127.0.0.1") {
		t.Errorf("localhost: %+v", r)
	}
}
