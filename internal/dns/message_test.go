package dns

import (
	"bytes"
	"errors"
	"net"
	"testing"

	miekg "github.com/miekg/dns"
)

func TestParseQuery(t *testing.T) {
	plain := ask("www.example", miekg.TypeA)
	edns := func(size uint16) []byte {
		return ask("www.example", miekg.TypeA, func(m *miekg.Msg) { m.SetEdns0(size, true) })
	}
	edit := func(msg []byte, change func(m []byte) []byte) []byte { return change(bytes.Clone(msg)) }
	opt := []byte{0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0}
	for _, c := range []struct {
		name    string
		raw     []byte
		err     error
		udpSize int
	}{
		{"plain", plain, nil, 512},
		{"EDNS", edns(1232), nil, 1232},
		{"EDNS below the minimum", edns(100), nil, 512},
		{"EDNS beyond a datagram", edns(65535), nil, 65507},
		{"empty", nil, errNotAQuery, 0},
		{"short header", plain[:11], errNotAQuery, 0},
		{"an answer", edit(plain, func(m []byte) []byte { m[2] |= flagQR; return m }), errNotAQuery, 0},
		{"NOTIFY", edit(plain, func(m []byte) []byte { m[2] |= miekg.OpcodeNotify << 3; return m }), errNotImplemented, 0},
		{"UPDATE without a question", edit(plain[:12], func(m []byte) []byte { m[2] = miekg.OpcodeUpdate << 3; setCount(m, 0, 0); return m }), errNotImplemented, 0},
		{"no question", edit(plain[:12], func(m []byte) []byte { setCount(m, 0, 0); return m }), errMalformed, 0},
		{"two questions", edit(plain, func(m []byte) []byte { setCount(m, 0, 2); return append(m, m[12:]...) }), errMalformed, 0},
		{"question cut", plain[:len(plain)-1], errMalformed, 0},
		{"name cut", plain[:16], errMalformed, 0},
		{"no question bytes", plain[:12], errMalformed, 0},
		{"name points to itself", edit(plain, func(m []byte) []byte { return append(m[:12], 0xc0, 12, 0, 1, 0, 1) }), errMalformed, 0},
		{"reserved label type", edit(plain, func(m []byte) []byte { m[12] = 0x80; return m }), errMalformed, 0},
		{"name over 255 bytes", edit(plain, func(m []byte) []byte {
			name := bytes.Repeat(append([]byte{63}, bytes.Repeat([]byte{'x'}, 63)...), 4)
			return append(append(m[:12], name...), 0, 0, 1, 0, 1)
		}), errMalformed, 0},
		{"missing record", edit(plain, func(m []byte) []byte { setCount(m, 3, 1); return m }), errMalformed, 0},
		{"record cut", edit(edns(1232), func(m []byte) []byte { return m[:len(m)-1] }), errMalformed, 0},
		{"two OPT", edit(edns(1232), func(m []byte) []byte { setCount(m, 3, 2); return append(m, opt...) }), errMalformed, 0},
		{"OPT is the second record", edit(plain, func(m []byte) []byte {
			setCount(m, 3, 2)
			return append(append(m, 0xc0, 12, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0), opt...)
		}), nil, 1232},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, err := parseQuery(c.raw)
			if !errors.Is(err, c.err) {
				t.Fatalf("error is %v, want %v", err, c.err)
			}
			if err == nil && (q.udpSize != c.udpSize || q.name != "www.example" || q.qtype != miekg.TypeA || q.class != miekg.ClassINET) {
				t.Errorf("query is %+v, want size %d", q, c.udpSize)
			}
		})
	}
}

func TestRejection(t *testing.T) {
	query := ask("www.example", miekg.TypeA, func(m *miekg.Msg) { m.Opcode = miekg.OpcodeStatus })
	m := unpack(t, rejection(query, errNotImplemented), query)
	if m.Rcode != miekg.RcodeNotImplemented || m.Opcode != miekg.OpcodeStatus || !m.RecursionDesired || len(m.Question) != 0 {
		t.Errorf("answer is %v", m)
	}
	if m := unpack(t, rejection(query, errMalformed), query); m.Rcode != miekg.RcodeFormatError {
		t.Errorf("answer is %v", m)
	}
	if answer := rejection(query, errNotAQuery); answer != nil {
		t.Errorf("an answer is answered: % x", answer)
	}
}

// bigAnswer has n addresses, a record in each further section, and OPT in between.
func bigAnswer(n int) *miekg.Msg {
	m := new(miekg.Msg).SetQuestion("www.example.", miekg.TypeA)
	m.Response, m.Compress = true, true
	for i := range n {
		m.Answer = append(m.Answer, &miekg.A{
			Hdr: miekg.RR_Header{Name: "www.example.", Rrtype: miekg.TypeA, Class: miekg.ClassINET, Ttl: 60},
			A:   net.IPv4(192, 0, byte(i>>8), byte(i)),
		})
	}
	m.Ns = []miekg.RR{&miekg.NS{Hdr: miekg.RR_Header{Name: "example.", Rrtype: miekg.TypeNS, Class: miekg.ClassINET}, Ns: "ns.example."}}
	m.SetEdns0(1232, true)
	m.IsEdns0().Option = []miekg.EDNS0{&miekg.EDNS0_COOKIE{Code: miekg.EDNS0COOKIE, Cookie: "0011223344556677"}}
	m.Extra = append(m.Extra, &miekg.A{Hdr: miekg.RR_Header{Name: "ns.example.", Rrtype: miekg.TypeA, Class: miekg.ClassINET}, A: net.IPv4(192, 0, 2, 1)})
	return m
}

func TestTruncate(t *testing.T) {
	for _, c := range []struct {
		name                 string
		records, limit       int
		answers, ns, addRest int // without OPT
		tc                   bool
	}{
		{"fits", 5, 512, 5, 1, 1, false},
		{"cut in the answer", 100, 512, 28, 0, 0, true},
		{"cut in the answer, larger limit", 100, 1232, 73, 0, 0, true},
		{"cut behind the answer", 27, 512, 27, 1, 0, true},
		{"very large", 4000, 65507 / 2, 2043, 0, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole := bigAnswer(c.records)
			packed := mustPack(whole)
			before := bytes.Clone(packed)
			out := truncate(packed, c.limit)
			if len(out) > c.limit {
				t.Errorf("%d bytes are left of %d", len(out), c.limit)
			}
			if !bytes.Equal(packed, before) {
				t.Error("the answer itself was changed")
			}
			m := unpack(t, out, packed)
			if m.Truncated != c.tc || len(m.Answer) != c.answers || len(m.Ns) != c.ns || len(m.Extra) != 1+c.addRest {
				t.Errorf("TC %v, %d answers, %d ns, %d extra", m.Truncated, len(m.Answer), len(m.Ns), len(m.Extra))
			}
			if opt := m.IsEdns0(); opt == nil || len(opt.Option) != 1 || !opt.Do() {
				t.Errorf("OPT is %v", opt)
			}
			for i, rr := range m.Answer {
				if rr.String() != whole.Answer[i].String() {
					t.Fatalf("answer %d is %v, was %v", i, rr, whole.Answer[i])
				}
			}
		})
	}
}

func TestTruncateUnreadable(t *testing.T) {
	msg := bytes.Repeat([]byte{0xbf}, 600)
	out := truncate(msg, 512)
	if len(out) != headerSize || out[2]&flagTC == 0 || count(out, 0)+count(out, 1)+count(out, 2)+count(out, 3) != 0 {
		t.Errorf("% x", out)
	}
}

func FuzzTruncate(f *testing.F) {
	f.Add(mustPack(bigAnswer(40)), uint16(0))
	f.Add(bytes.Repeat([]byte{0xbf}, 600), uint16(7))
	f.Fuzz(func(t *testing.T, msg []byte, more uint16) {
		limit := min(minUDPSize+int(more), maxUDPSize)
		if len(msg) < headerSize {
			return
		}
		out := truncate(msg, limit)
		if len(out) > limit || len(out) < headerSize {
			t.Fatalf("%d bytes of %d with limit %d", len(out), len(msg), limit)
		}
		var before, after miekg.Msg
		if before.Unpack(msg) != nil {
			return
		}
		// Packed anew, since a compression pointer that leads forwards can't survive.
		before.Compress = true
		packed, err := before.Pack()
		if err != nil || before.Unpack(packed) != nil {
			return
		}
		if err := after.Unpack(truncate(packed, limit)); err != nil {
			t.Fatalf("truncation spoils the message: %v\n% x", err, packed)
		}
		if len(after.Answer) > len(before.Answer) || len(packed) > limit && !after.Truncated {
			t.Fatalf("%v\nbecame %v", &before, &after)
		}
	})
}

// FuzzAnswers takes messages from upstream resolvers for answers to a query.
func FuzzAnswers(f *testing.F) {
	raw := ask("example.com", miekg.TypeA)
	f.Add(mustPack(bigAnswer(2)))
	f.Add(append([]byte{raw[0], raw[1], 0x81, 0x80}, raw[4:]...))
	f.Add([]byte{raw[0], raw[1], 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, answer []byte) {
		q, err := parseQuery(raw)
		if err != nil {
			t.Fatal(err)
		}
		if !answers(answer, raw, q) {
			return
		}
		if answer[0] != raw[0] || answer[1] != raw[1] {
			t.Errorf("% x is taken for an answer to % x", answer, raw)
		}
		if out := truncate(bytes.Clone(answer), minUDPSize); len(out) > minUDPSize {
			t.Errorf("an answer of %d bytes", len(out))
		}
	})
}
