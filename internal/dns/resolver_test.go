package dns

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// slack is by how much deadlines are stretched for loaded machines.
const slack = 5

// resolver is a resolver of the host: real sockets, UDP and TCP on one port.
type resolver struct {
	addr netip.AddrPort
	// handle returns the messages to send back for one query.
	handle func(query []byte, from netip.AddrPort, how transport) [][]byte
	udp    *net.UDPConn
	tcp    net.Listener
	seen   atomic.Int64
	wg     sync.WaitGroup
}

// startResolver listens on 127.0.0.1 or a neighbour of it.
func startResolver(t testing.TB, handle func(query []byte, from netip.AddrPort, how transport) [][]byte) *resolver {
	t.Helper()
	for range 20 { // the UDP port that the kernel draws may be taken for TCP
		udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
		if err != nil {
			t.Fatal(err)
		}
		addr := udp.LocalAddr().(*net.UDPAddr).AddrPort()
		tcp, err := net.Listen("tcp4", addr.String())
		if err != nil {
			udp.Close()
			continue
		}
		r := &resolver{addr: addr, handle: handle, udp: udp, tcp: tcp}
		r.wg.Go(r.serveUDP)
		r.wg.Go(r.serveTCP)
		t.Cleanup(r.stop)
		return r
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil
}

func (r *resolver) stop() {
	r.udp.Close()
	r.tcp.Close()
	r.wg.Wait()
}

func (r *resolver) serveUDP() {
	buf := make([]byte, maxMessage)
	for {
		n, from, err := r.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		r.seen.Add(1)
		query := append([]byte(nil), buf[:n]...)
		r.wg.Go(func() {
			for _, answer := range r.handle(query, from, overUDP) {
				_, _ = r.udp.WriteToUDPAddrPort(answer, from)
			}
		})
	}
}

func (r *resolver) serveTCP() {
	for {
		conn, err := r.tcp.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() {
			defer conn.Close()
			buf := make([]byte, maxMessage)
			for {
				n, err := readMessage(conn, buf)
				if err != nil {
					return
				}
				r.seen.Add(1)
				for _, answer := range r.handle(append([]byte(nil), buf[:n]...), netip.AddrPort{}, overTCP) {
					if writeMessage(conn, answer) != nil {
						return
					}
				}
			}
		})
	}
}

// answering answers every query with that address, after a while.
func answering(t testing.TB, addr string, after time.Duration) *resolver {
	t.Helper()
	return startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		time.Sleep(after)
		return [][]byte{addressAnswer(query, addr)}
	})
}

// saying answers every query with that rcode and no record.
func saying(t testing.TB, rcode int) *resolver {
	t.Helper()
	return startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		return [][]byte{rcodeAnswer(query, rcode)}
	})
}

// silentServer takes queries and never answers.
func silentServer(t testing.TB) *resolver {
	t.Helper()
	return startResolver(t, func([]byte, netip.AddrPort, transport) [][]byte { return nil })
}

// refusing is an address where nobody listens.
func refusing(t testing.TB) *resolver {
	t.Helper()
	r := silentServer(t)
	r.stop()
	return r
}

func addressAnswer(query []byte, addr string) []byte {
	m := unpackQuery(query)
	rr, err := miekg.NewRR(m.Question[0].Name + " 60 IN A " + addr)
	if err != nil {
		panic(err)
	}
	m.Answer = []miekg.RR{rr}
	return mustPack(m)
}

func rcodeAnswer(query []byte, rcode int) []byte {
	m := unpackQuery(query)
	m.Rcode = rcode
	return mustPack(m)
}

func unpackQuery(query []byte) *miekg.Msg {
	var q miekg.Msg
	if err := q.Unpack(query); err != nil {
		panic(err)
	}
	return new(miekg.Msg).SetReply(&q)
}

func mustPack(m *miekg.Msg) []byte {
	out, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return out
}

// ask packs a question.
func ask(name string, qtype uint16, change ...func(*miekg.Msg)) []byte {
	m := new(miekg.Msg).SetQuestion(miekg.Fqdn(name), qtype)
	for _, f := range change {
		f(m)
	}
	return mustPack(m)
}

// setup is a Server on a host with these resolvers, running until the test ends.
type setup struct {
	*Server
	names *system.FakeNames
	ctx   context.Context
}

func newSetup(t testing.TB, resolvers ...*resolver) setup {
	t.Helper()
	return runServer(t, Config{}, resolverConfig(resolvers...))
}

func resolverConfig(resolvers ...*resolver) system.NameConfig {
	var cfg system.NameConfig
	for _, r := range resolvers {
		cfg.Resolver.Servers = append(cfg.Resolver.Servers, r.addr)
	}
	return cfg
}

func runServer(t testing.TB, cfg Config, names system.NameConfig) setup {
	t.Helper()
	source := system.NewFakeNames(names)
	cfg.Link, cfg.Source, cfg.Log = portolan.DefaultLink(), source, slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	s := setup{New(cfg), source, ctx}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return s
}

var container = netip.MustParseAddrPort("172.17.0.2:40000")

// exchangeUDP returns the answer and how long it took; nil when none came in time.
func (s setup) exchangeUDP(query []byte, within time.Duration) ([]byte, time.Duration) {
	answers := make(chan []byte, 2)
	began := time.Now()
	s.HandleUDP(query, container, func(answer []byte) { answers <- answer })
	select {
	case answer := <-answers:
		return answer, time.Since(began)
	case <-time.After(within):
		return nil, time.Since(began)
	}
}

// udp expects an answer and returns it unpacked.
func (s setup) udp(t testing.TB, query []byte) (*miekg.Msg, time.Duration) {
	t.Helper()
	raw, took := s.exchangeUDP(query, slack*patience)
	return unpack(t, raw, query), took
}

func unpack(t testing.TB, raw, query []byte) *miekg.Msg {
	t.Helper()
	if raw == nil {
		t.Fatal("no answer")
	}
	var m miekg.Msg
	if err := m.Unpack(raw); err != nil {
		t.Fatalf("unpack answer % x: %v", raw, err)
	}
	if raw[0] != query[0] || raw[1] != query[1] || !m.Response {
		t.Fatalf("answer has id %d and QR %v, query % x", m.Id, m.Response, query[:2])
	}
	return &m
}

// tcpClient connects to ServeTCP over a real connection.
func (s setup) tcpClient(t testing.TB) *net.TCPConn {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	served, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		s.ServeTCP(s.ctx, served.(*net.TCPConn))
		close(done)
	}()
	t.Cleanup(func() {
		conn.Close()
		select {
		case <-done:
		case <-time.After(slack * patience):
			t.Error("ServeTCP goes on after the client has closed")
		}
	})
	return conn.(*net.TCPConn)
}

// tcp asks over a new connection.
func (s setup) tcp(t testing.TB, query []byte) []byte {
	t.Helper()
	conn := s.tcpClient(t)
	if err := writeMessage(conn, query); err != nil {
		t.Fatal(err)
	}
	return receive(t, conn)
}

// receive reads one message, nil at the end of the stream.
func receive(t testing.TB, conn net.Conn) []byte {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(slack * patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, maxMessage)
	n, err := readMessage(conn, buf)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// firstA is the address of the first answer record.
func firstA(m *miekg.Msg) string {
	if len(m.Answer) > 0 {
		if a, ok := m.Answer[0].(*miekg.A); ok {
			return a.A.String()
		}
	}
	return ""
}
