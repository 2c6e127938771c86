package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

func TestLargestAnswerOverTCP(t *testing.T) {
	var mu sync.Mutex
	var sent []byte
	r := startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		m := unpackQuery(query)
		txt := &miekg.TXT{Hdr: miekg.RR_Header{Name: m.Question[0].Name, Rrtype: miekg.TypeTXT, Class: miekg.ClassINET}}
		for range 254 {
			txt.Txt = append(txt.Txt, strings.Repeat("x", 255))
		}
		m.Answer = []miekg.RR{txt}
		mu.Lock()
		defer mu.Unlock()
		sent = mustPack(m)
		return [][]byte{sent}
	})
	answer := newSetup(t, r).tcp(t, ask("big.example", miekg.TypeTXT))
	mu.Lock()
	defer mu.Unlock()
	if len(answer) < 65000 || !bytes.Equal(answer[2:], sent[2:]) {
		t.Errorf("%d bytes of %d came, or others", len(answer), len(sent))
	}
}

// TestPipelining: a slow query does not hold up the next one, and answers go to
// the right questions.
func TestPipelining(t *testing.T) {
	r := startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		if bytes.Contains(query, []byte("slow")) {
			time.Sleep(300 * time.Millisecond)
		}
		return [][]byte{addressAnswer(query, "192.0.2.1")}
	})
	conn := newSetup(t, r).tcpClient(t)
	names := []string{"slow.example", "fast.example", "host.docker.internal"}
	var stream []byte
	for i, name := range names {
		query := ask(name, miekg.TypeA, func(m *miekg.Msg) { m.Id = uint16(i) })
		stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(query))), query...)
	}
	for _, piece := range [][]byte{stream[:1], stream[1:40], stream[40:]} { // as a network may deliver it
		if _, err := conn.Write(piece); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := conn.CloseWrite(); err != nil { // a half-closed client still gets its answers
		t.Fatal(err)
	}
	var order []string
	for answer := receive(t, conn); answer != nil; answer = receive(t, conn) {
		var m miekg.Msg
		if err := m.Unpack(answer); err != nil {
			t.Fatal(err)
		}
		if want := names[m.Id] + "."; m.Question[0].Name != want || firstA(&m) == "" {
			t.Errorf("answer to %s is %v", want, &m)
		}
		order = append(order, m.Question[0].Name)
	}
	if len(order) != len(names) || order[len(order)-1] != "slow.example." {
		t.Errorf("answers came in the order %q", order)
	}
}

func TestManyPipelinedQueries(t *testing.T) {
	conn := newSetup(t, answering(t, "192.0.2.1", time.Millisecond)).tcpClient(t)
	const n = 10 * maxPipelined
	go func() {
		for i := range n {
			if writeMessage(conn, ask("www.example", miekg.TypeA, func(m *miekg.Msg) { m.Id = uint16(i) })) != nil {
				return
			}
		}
	}()
	seen := map[uint16]bool{}
	for range n {
		answer := receive(t, conn)
		if answer == nil {
			break
		}
		seen[binary.BigEndian.Uint16(answer)] = true
	}
	if len(seen) != n {
		t.Errorf("%d of %d queries have an answer", len(seen), n)
	}
}

func TestTCPRefusedByTheResolverIsServfailAtOnce(t *testing.T) {
	udpOnly := startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		return [][]byte{addressAnswer(query, "192.0.2.1")}
	})
	udpOnly.tcp.Close()
	s := newSetup(t, udpOnly)
	query := ask("www.example", miekg.TypeA)
	began := time.Now()
	if m := unpack(t, s.tcp(t, query), query); m.Rcode != miekg.RcodeServerFailure {
		t.Errorf("answer over TCP is %v", m)
	}
	if took := time.Since(began); took > silence/2 {
		t.Errorf("SERVFAIL took %v", took)
	}
	if m, took := s.udp(t, query); firstA(m) != "192.0.2.1" || took > silence/2 {
		t.Errorf("over UDP, after %v: %v", took, m)
	}
}

func TestBrokenStreamEndsTheConnection(t *testing.T) {
	for name, stream := range map[string][]byte{
		"message too short": {0, 3, 1, 2, 3},
		"length zero":       {0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			conn := newSetup(t).tcpClient(t)
			if _, err := conn.Write(stream); err != nil {
				t.Fatal(err)
			}
			if answer := receive(t, conn); answer != nil {
				t.Errorf("answer is % x", answer)
			}
		})
	}
}

func TestEndOfContextEndsServeTCP(t *testing.T) {
	s := newSetup(t, silentServer(t))
	near, far := net.Pipe()
	defer near.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		s.ServeTCP(ctx, pipeConn{far})
		close(done)
	}()
	if err := writeMessage(near, ask("www.example", miekg.TypeA)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	cancel()
	select {
	case <-done:
	case <-time.After(slack * 200 * time.Millisecond):
		t.Error("ServeTCP goes on")
	}
}

// pipeConn is a datapath.Conn without an IP address.
type pipeConn struct{ net.Conn }

func (pipeConn) CloseWrite() error { return nil }

func TestConnectionsOfOneClientAreBounded(t *testing.T) {
	s := newSetup(t)
	var conns []*net.TCPConn
	for range maxConnsPerClient {
		conns = append(conns, s.tcpClient(t))
	}
	query := ask("host.docker.internal", miekg.TypeA)
	for _, conn := range conns { // all are being served
		if err := writeMessage(conn, query); err != nil {
			t.Fatal(err)
		}
		if receive(t, conn) == nil {
			t.Fatal("a connection within the bound was closed")
		}
	}
	over := s.tcpClient(t)
	if answer := receive(t, over); answer != nil {
		t.Errorf("answer is % x", answer)
	}
	conns[0].Close()
	for end := time.Now().Add(slack * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn := s.tcpClient(t)
		if writeMessage(conn, query) == nil {
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := readMessage(conn, make([]byte, maxMessage)); err == nil {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatal("the place of a closed connection is not free again")
		}
	}
}

// A query is never as long as a message may be: who announces one only wants
// memory, and is hung up on before it is read.
func TestLongQueryIsNotRead(t *testing.T) {
	conn := newSetup(t).tcpClient(t)
	if _, err := conn.Write(binary.BigEndian.AppendUint16(nil, maxQuery+1)); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(idleTime / 2))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes, %v; want the end of the connection", n, err)
	}
}
