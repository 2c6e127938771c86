package dns

import (
	"context"
	"encoding/hex"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// The host's dnsmasq, with aliases that lead in a circle.
const (
	maskServer = "127.0.0.3"
	loopServer = "127.0.0.94"
)

// checkMessages asks with dig what few programs ask, in a container and on the host:
// the answers are the same.
func checkMessages(t *testing.T, s *stage.Stage, set func(*testing.T, string)) {
	s.Lab.StartDNS(t, s.Lab.Host, loopServer+":53", "one.loop.test. 60 IN CNAME two.loop.test.", "two.loop.test. 60 IN CNAME one.loop.test.")
	start(t, s, maskServer+":53", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv",
		"--user=root", "--pid-file", "--listen-address="+maskServer, "--bind-interfaces", "--server="+lab.DNSV4, "--server=/loop.test/"+loopServer)
	set(t, "nameserver "+maskServer+"\n")
	want(t, s, "web.internet.test", lab.WebV4, lab.WebV6)
	for _, question := range []string{
		"web.internet.test A +cookie=0011223344556677",
		"web.internet.test A +edns=1 +noednsnegotiation",
		"web.internet.test A +ednsopt=65001:0102 +ednsflags=0x0040",
		"web.internet.test AAAA +tcp +cookie +dnssec",
		"web.internet.test A +noedns",
		"unknown.internet.test TYPE65280",
		"web.internet.test TYPE65281",
		"web.internet.test -c CLASS300 A",
		"version.bind CH TXT",
		"version.bind CH TXT +tcp",
		"one.loop.test A",
		"one.loop.test A +tcp",
		"one.loop.test HTTPS",
		"servfail.internet.test A",
		"big.internet.test TXT +ignore",
		"big.internet.test TXT",
	} {
		words := strings.Fields(question)
		got, direct := digIn(t, s, resolverV4, words...), digOn(t, s, maskServer, words...)
		if got != direct || !strings.Contains(got, "status: ") {
			t.Errorf("%s is\n%s\non the host\n%s", question, got, direct)
		}
	}
	if got := digIn(t, s, resolverV4, "version.bind", "CH", "TXT"); !strings.Contains(got, "dnsmasq") {
		t.Errorf("version.bind is\n%s", got)
	}
	// dig closes a connection that answers wrongly, and says so.
	several := s.Docker(t, "exec", "bridged", "/usr/bin/dig", "@"+resolverV4, "+tcp", "+keepopen", "+short",
		"v4only.internet.test", "A", "v6only.internet.test", "AAAA", "txt.internet.test", "TXT")
	if want := lab.WebV4 + "\n" + lab.WebV6 + "\n\"first string\" \"second; string\""; several != want {
		t.Errorf("three questions over one connection:\n%s\nwant\n%s", several, want)
	}
	t.Run("several questions", func(t *testing.T) { checkQuestions(t, s) })
	t.Run("pipelining", func(t *testing.T) { checkPipelining(t, s) })
}

var (
	digStatus  = regexp.MustCompile(`opcode: \w+, status: \w+`)
	digFlags   = regexp.MustCompile(`;; flags:[^;]*;`)
	digRecords = regexp.MustCompile(`(?m)^[^;\n].*$`)
)

// digest is what counts of dig's output: status, flags, and records without TTLs.
func digest(text string) string {
	records := digRecords.FindAllString(text, -1)
	slices.Sort(records) // servers turn them round
	return strings.Join(append([]string{digStatus.FindString(text), digFlags.FindString(text)}, records...), "\n")
}

func digIn(t *testing.T, s *stage.Stage, server string, words ...string) string {
	t.Helper()
	out, _ := s.TryDocker(t, append([]string{"exec", "bridged", "/usr/bin/dig", "@" + server, "+nottlid", "+tries=1"}, words...)...)
	return digest(out)
}

func digOn(t *testing.T, s *stage.Stage, server string, words ...string) string {
	t.Helper()
	return digest(s.Lab.Host.Run(t, "dig", append([]string{"@" + server, "+nottlid", "+tries=1"}, words...)...))
}

// rawScript sends messages as they are, over TCP in one piece, and prints each answer
// in hexadecimal, in the order in which they come.
const rawScript = `
import socket, struct, sys
server, how, messages = sys.argv[1], sys.argv[2], [bytes.fromhex(m) for m in sys.argv[3:]]
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if how == "tcp" else socket.SOCK_DGRAM)
s.settimeout(10)
s.connect((server, 53))
if how == "tcp":
    s.sendall(b"".join(struct.pack("!H", len(m)) + m for m in messages))
    f = s.makefile("rb")
    for _ in messages:
        print(f.read(struct.unpack("!H", f.read(2))[0]).hex())
else:
    for m in messages:
        s.send(m)
    for _ in messages:
        print(s.recv(65535).hex())
`

// raw returns the answers to messages in the order in which they came.
func raw(t *testing.T, s *stage.Stage, how string, messages ...*dns.Msg) []*dns.Msg {
	t.Helper()
	words := []string{"exec", "bridged", "/usr/bin/python3", "-c", rawScript, resolverV4, how}
	for _, m := range messages {
		packed, err := m.Pack()
		must(t, err)
		words = append(words, hex.EncodeToString(packed))
	}
	var answers []*dns.Msg
	for line := range strings.Lines(s.Docker(t, words...)) {
		packed, err := hex.DecodeString(strings.TrimSpace(line))
		must(t, err)
		answer := new(dns.Msg)
		must(t, answer.Unpack(packed))
		answers = append(answers, answer)
	}
	if len(answers) != len(messages) {
		t.Fatalf("%d answers to %d messages", len(answers), len(messages))
	}
	return answers
}

// checkQuestions: a message with two questions, or none, is refused as malformed
// (RFC 9619), and what comes after it on the connection is answered.
func checkQuestions(t *testing.T, s *stage.Stage) {
	two := new(dns.Msg).SetQuestion("web.internet.test.", dns.TypeA)
	two.Question = append(two.Question, dns.Question{Name: "txt.internet.test.", Qtype: dns.TypeTXT, Qclass: dns.ClassINET})
	none := new(dns.Msg).SetQuestion(".", dns.TypeA)
	none.Question = nil
	one := new(dns.Msg).SetQuestion("v4only.internet.test.", dns.TypeA)
	want := map[uint16]int{two.Id: dns.RcodeFormatError, none.Id: dns.RcodeFormatError, one.Id: dns.RcodeSuccess}
	for _, how := range []string{"udp", "tcp"} {
		for _, answer := range raw(t, s, how, two, none, one) {
			rcode, ours := want[answer.Id]
			if !ours || answer.Rcode != rcode || (rcode == dns.RcodeSuccess) != (len(answer.Answer) == 1) {
				t.Errorf("over %s: %v", how, answer)
			}
		}
	}
}

// checkPipelining sends many queries at once; the one that nobody answers comes last
// and holds up no other.
func checkPipelining(t *testing.T, s *stage.Stage) {
	queries := []*dns.Msg{new(dns.Msg).SetQuestion("silent.internet.test.", dns.TypeA)}
	names := map[uint16]string{queries[0].Id: "silent.internet.test."}
	for len(queries) < 20 {
		name := []string{"web.internet.test.", "v4only.internet.test.", "alias.internet.test."}[len(queries)%3]
		q := new(dns.Msg).SetQuestion(name, dns.TypeA)
		if _, used := names[q.Id]; used {
			continue
		}
		names[q.Id] = name
		queries = append(queries, q)
	}
	answers := raw(t, s, "tcp", queries...)
	for i, answer := range answers {
		last := i == len(answers)-1
		if answer.Question[0].Name != names[answer.Id] || (answer.Rcode == dns.RcodeServerFailure) != last || (answer.Id == queries[0].Id) != last {
			t.Errorf("answer %d is %v", i, answer)
		}
	}
}

// checkHints: HTTPS and SVCB records lose the hints of a hidden family, and nothing
// else.
func checkHints(t *testing.T, s *stage.Stage, set func(*testing.T, string)) {
	const server = "127.0.0.93"
	const hints = " alpn=\"h2\" ipv4hint=" + wikiV4 + " ipv6hint=" + wikiV6
	s.Lab.StartDNS(t, s.Lab.Host, server+":53", "hints.corp.test. 60 IN HTTPS 1 ."+hints, "hints.corp.test. 60 IN SVCB 1 dns.corp.test."+hints,
		"hints.corp.test. 60 IN A "+wikiV4, "hints.corp.test. 60 IN AAAA "+wikiV6)
	set(t, "nameserver "+server+"\n")
	t.Cleanup(func() { s.Portolan(t, "settings", "unset", "dnsInhibition") })
	short := func(container string, words ...string) string {
		return s.Docker(t, append([]string{"exec", container, "/usr/bin/dig", "+short", "hints.corp.test"}, words...)...)
	}
	for _, c := range []struct {
		inhibition string
		v4, v6     bool
	}{{"none", true, true}, {"ipv4", false, true}, {"ipv6", true, false}} {
		s.Portolan(t, "settings", "set", "dnsInhibition", c.inhibition)
		for _, container := range containers() {
			stage.Eventually(t, followed, c.inhibition+" counts in "+container, func() bool {
				return (short(container, "A") != "") == c.v4 && (short(container, "AAAA") != "") == c.v6
			})
			for _, qtype := range []string{"TYPE65", "TYPE64"} {
				got := short(container, qtype)
				if !strings.Contains(got, "h2") || strings.Contains(got, "ipv4hint="+wikiV4) != c.v4 || strings.Contains(got, "ipv6hint="+wikiV6) != c.v6 {
					t.Errorf("%s, %s: %s is %q", container, c.inhibition, qtype, got)
				}
			}
		}
	}
}

// slow answers at addr with what the server at behind says, after a while.
func slow(t *testing.T, s *stage.Stage, addr, behind string, after time.Duration) {
	t.Helper()
	proxied(t, s, s.Lab.Host, addr, behind, after, func(context.Context, net.PacketConn, net.Addr, []byte) {})
}

// proxied takes queries at addr, lets meanwhile do what it likes until the answer of
// the server at behind has been passed on, and does that after a while.
func proxied(t *testing.T, s *stage.Stage, node *lab.Node, addr, behind string, after time.Duration, meanwhile func(ctx context.Context, conn net.PacketConn, client net.Addr, query []byte)) {
	t.Helper()
	conn, err := node.ListenPacket("udp", addr)
	must(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var working sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		_ = conn.Close() // nothing was left to send
		working.Wait()
	})
	answer := func(client net.Addr, query []byte) {
		busy, done := context.WithCancel(ctx)
		working.Go(func() { meanwhile(busy, conn, client, query) })
		defer done()
		select {
		case <-ctx.Done():
			return
		case <-time.After(after):
		}
		server, err := node.Dial(ctx, "udp", behind)
		if err != nil {
			t.Error(err)
			return
		}
		defer server.Close()
		buf := make([]byte, dns.MaxMsgSize)
		_ = server.SetDeadline(time.Now().Add(started))
		if _, err = server.Write(query); err == nil {
			var n int
			if n, err = server.Read(buf); err == nil {
				_, err = conn.WriteTo(buf[:n], client)
			}
		}
		if err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}
	working.Go(func() {
		buf := make([]byte, dns.MaxMsgSize)
		for {
			n, client, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			query := slices.Clone(buf[:n])
			working.Go(func() { answer(client, query) })
		}
	})
}

// checkFlood: while the real answer takes its time, others come by the thousand, from
// where the real one is to come and from beside it, each with one thing wrong.
func checkFlood(t *testing.T, s *stage.Stage, set func(*testing.T, string)) {
	const forged = "203.0.113.66"
	beside, err := s.Lab.Internet.ListenPacket("udp", lab.EmptyV4+":0")
	must(t, err)
	defer beside.Close()
	var sent atomic.Int64
	flood := func(ctx context.Context, conn net.PacketConn, client net.Addr, query []byte) {
		var q dns.Msg
		if q.Unpack(query) != nil {
			return
		}
		answer := func(change func(*dns.Msg)) []byte {
			m := new(dns.Msg).SetReply(&q)
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 600}, A: net.ParseIP(forged)}}
			change(m)
			packed, _ := m.Pack() // it can be packed
			return packed
		}
		otherName := answer(func(m *dns.Msg) { m.Question[0].Name = "x" + m.Question[0].Name })
		otherType := answer(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeTXT })
		right := answer(func(*dns.Msg) {})
		for id := q.Id; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
			for range 30 {
				id++
				if id != q.Id {
					_, _ = conn.WriteTo(answer(func(m *dns.Msg) { m.Id = id }), client)
				}
				_, _ = conn.WriteTo(otherName, client)
				_, _ = conn.WriteTo(otherType, client)
				_, _ = beside.WriteTo(right, client)
				sent.Add(4)
			}
		}
	}
	proxied(t, s, s.Lab.Internet, lab.EmptyV4+":53", lab.DNSV4+":53", 400*time.Millisecond, flood)
	set(t, "nameserver "+lab.EmptyV4+"\n")
	want(t, s, "v4only.internet.test", lab.WebV4)
	want(t, s, "alias.internet.test", lab.WebV4, lab.WebV6)
	want(t, s, "nobody.internet.test")
	if n := sent.Load(); n < 10000 {
		t.Errorf("%d forged answers were sent: no flood", n)
	}
}
