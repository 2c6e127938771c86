package lab

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Zone is what the lab's DNS servers know at least:
//
//	web        A and AAAA of the web server     v4only, v6only  one of the two
//	alias      CNAME of web                     internet.test   A, AAAA, MX, SOA, NS
//	txt        TXT of two strings               _http._tcp      SRV
//	https      HTTPS (RFC 9460)                 unknown         TYPE65280 (RFC 3597)
//	big        TXT of 6,000 bytes: truncated over UDP, whole over TCP
//	servfail   SERVFAIL                         silent          no answer at all
//
// Other names in it do not exist (NXDOMAIN with SOA), names outside are
// REFUSED.
const Zone = "internet.test."

// soa allows an answer that says "no" to be kept for a minute.
const soa = Zone + " 60 IN SOA ns.internet.test. admin.internet.test. 1 3600 600 86400 60"

func zoneRecords() []string {
	return []string{
		soa,
		Zone + " 60 IN NS ns.internet.test.",
		Zone + " 60 IN A " + WebV4,
		Zone + " 60 IN AAAA " + WebV6,
		Zone + " 60 IN MX 10 mail.internet.test.",
		"ns.internet.test. 60 IN A " + DNSV4,
		"ns.internet.test. 60 IN AAAA " + DNSV6,
		"mail.internet.test. 60 IN A " + WebV4,
		"web.internet.test. 60 IN A " + WebV4,
		"web.internet.test. 60 IN AAAA " + WebV6,
		"v4only.internet.test. 60 IN A " + WebV4,
		"v6only.internet.test. 60 IN AAAA " + WebV6,
		"alias.internet.test. 60 IN CNAME web.internet.test.",
		`txt.internet.test. 60 IN TXT "first string" "second; string"`,
		"_http._tcp.internet.test. 60 IN SRV 1 2 80 web.internet.test.",
		`https.internet.test. 60 IN HTTPS 1 . alpn="h2,h3" port=8443 ipv4hint=` + WebV4,
		`unknown.internet.test. 60 IN TYPE65280 \# 5 0a00ff0102`,
		"big.internet.test. 60 IN TXT" + strings.Repeat(` "`+strings.Repeat("x", 250)+`"`, 24),
	}
}

// Query is one question that a DNS server received.
type Query struct {
	Network string // udp or tcp
	Client  netip.AddrPort
	Name    string // lower case, with the final dot
	Type    string // as in a zone file: A, TYPE65280
}

// DNS is a name server of the lab.
type DNS struct {
	Server

	records map[string][]dns.RR // by lower-case name

	logMu   sync.Mutex
	queries []Query // guarded by logMu
}

// StartDNS serves Zone and further records, given as lines of a zone file, over
// UDP and TCP. It answers as a recursive resolver does.
func (l *Lab) StartDNS(t testing.TB, node *Node, addr string, records ...string) *DNS {
	t.Helper()
	s := &DNS{records: map[string][]dns.RR{}}
	for _, line := range append(zoneRecords(), records...) {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatalf("parse record %q: %v", line, err)
		}
		name := strings.ToLower(rr.Header().Name)
		s.records[name] = append(s.records[name], rr)
	}
	pc := listenPacket(t, node, addr)
	s.Addr = addrPort(pc.LocalAddr())
	ln := listen(t, node, s.Addr.String())
	servers := []*dns.Server{{PacketConn: pc, Handler: s}, {Listener: ln, Handler: s}}
	for _, srv := range servers {
		up := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(up) }
		s.wg.Go(func() { _ = srv.ActivateAndServe() }) // ends with Shutdown
		<-up
	}
	t.Cleanup(func() {
		for _, srv := range servers {
			_ = srv.Shutdown()
		}
		s.wg.Wait()
	})
	return s
}

// Queries is the log of all questions, in order.
func (s *DNS) Queries() []Query {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return append([]Query(nil), s.queries...)
}

// ServeDNS implements dns.Handler.
func (s *DNS) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	if len(request.Question) != 1 {
		_ = w.WriteMsg(new(dns.Msg).SetRcodeFormatError(request))
		return
	}
	q := request.Question[0]
	s.record(w.RemoteAddr(), q)
	reply := new(dns.Msg).SetReply(request)
	reply.RecursionAvailable = true
	switch name := strings.ToLower(q.Name); {
	case name == "silent."+Zone:
		return
	case name == "servfail."+Zone:
		reply.Rcode = dns.RcodeServerFailure
	default:
		s.answer(reply, name, q.Qtype)
	}
	limit := dns.MaxMsgSize
	if opt := request.IsEdns0(); opt != nil {
		reply.SetEdns0(dns.DefaultMsgSize, opt.Do())
	}
	if w.RemoteAddr().Network() == "udp" {
		limit = dns.MinMsgSize
		if opt := request.IsEdns0(); opt != nil {
			limit = max(limit, int(opt.UDPSize()))
		}
	}
	reply.Truncate(limit)
	_ = w.WriteMsg(reply) // the client may have gone
}

func (s *DNS) record(from net.Addr, q dns.Question) {
	s.saw(from)
	s.logMu.Lock()
	defer s.logMu.Unlock()
	s.queries = append(s.queries, Query{
		Network: from.Network(),
		Client:  addrPort(from),
		Name:    strings.ToLower(q.Name),
		Type:    dns.Type(q.Qtype).String(),
	})
}

// maxChain bounds how many CNAMEs are followed.
const maxChain = 8

// answer fills reply in, following CNAMEs.
func (s *DNS) answer(reply *dns.Msg, name string, qtype uint16) {
	for range maxChain {
		all, known := s.records[name]
		if !known {
			s.deny(reply, name)
			return
		}
		next := ""
		for _, rr := range all {
			alias, isAlias := rr.(*dns.CNAME)
			if rr.Header().Rrtype == qtype || qtype == dns.TypeANY || isAlias {
				reply.Answer = append(reply.Answer, rr)
			}
			if isAlias && qtype != dns.TypeCNAME && qtype != dns.TypeANY {
				next = strings.ToLower(alias.Target)
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if len(reply.Answer) == 0 {
		reply.Ns = s.records[Zone][:1]
	}
}

// deny says that a name does not exist, or that it is not ours to say.
func (s *DNS) deny(reply *dns.Msg, name string) {
	if !dns.IsSubDomain(Zone, name) {
		reply.Rcode = dns.RcodeRefused
		return
	}
	for known := range s.records {
		if dns.IsSubDomain(name, known) { // an empty non-terminal exists
			reply.Ns = s.records[Zone][:1]
			return
		}
	}
	reply.Rcode = dns.RcodeNameError
	reply.Ns = s.records[Zone][:1]
}

// String returns "udp 192.0.2.10:4711 web.internet.test. A".
func (q Query) String() string {
	return fmt.Sprintf("%s %s %s %s", q.Network, q.Client, q.Name, q.Type)
}
