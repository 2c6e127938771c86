package dns

import (
	"encoding/binary"
	"errors"
	"strings"

	miekg "github.com/miekg/dns"
)

// Offsets and sizes of RFC 1035 section 4.1.1.
const (
	headerSize = 12
	countsAt   = 4 // QDCOUNT, ANCOUNT, NSCOUNT, ARCOUNT, two bytes each
	sections   = 4
	questionRR = 4  // type and class of a question
	recordRR   = 10 // type, class, TTL and length of a record

	flagQR = 1 << 7 // in byte 2
	flagAA = 1 << 2
	flagTC = 1 << 1
	flagRD = 1 << 0
	flagRA = 1 << 7 // in byte 3
	flagAD = 1 << 5
	flagCD = 1 << 4

	// minUDPSize is what every client takes over UDP (RFC 1035 section 4.2.1).
	minUDPSize = 512
	// maxUDPSize is what one datagram can carry over IPv4.
	maxUDPSize = 65507
	// maxQuery is more than any query has, cookies and padding (RFC 8467) included;
	// longer ones would only cost memory.
	maxQuery = 4096
	// maxMessage is what fits the length of a message over TCP.
	maxMessage = 1<<16 - 1
)

// What parseQuery says about bytes that it does not take.
var (
	errNotAQuery      = errors.New("parse query: not a query")
	errMalformed      = errors.New("parse query: malformed")
	errNotImplemented = errors.New("parse query: opcode is not QUERY")
)

// query is one parsed query. raw is not changed.
type query struct {
	raw         []byte
	asked       string // the name in presentation form, as the client spelt it
	name        string // the same in lower case without the final dot; "" is the root
	qtype       uint16
	class       uint16
	questionEnd int

	hidden families // address records that the answer must not have

	udpSize int  // the largest answer that the client takes over UDP
	edns    bool // it has an OPT record (RFC 6891)
	version uint8
	do      bool // DNSSEC OK
	// plain: it has nothing else that an answer could depend on, no EDNS option
	// and no record.
	plain bool
}

// parseQuery reads as much of a message as is needed to route and answer it:
// header, question and the fixed part of OPT. All else stays unread, because the
// forwarder passes it on as it is.
func parseQuery(raw []byte) (*query, error) {
	if len(raw) < headerSize || raw[2]&flagQR != 0 {
		return nil, errNotAQuery
	}
	if opcode := raw[2] >> 3 & 0xf; opcode != miekg.OpcodeQuery {
		return nil, errNotImplemented
	}
	if count(raw, 0) != 1 {
		return nil, errMalformed
	}
	end, ok := skipName(raw, headerSize)
	if !ok || end+questionRR > len(raw) {
		return nil, errMalformed
	}
	asked, _, err := miekg.UnpackDomainName(raw[:end], headerSize)
	if err != nil {
		return nil, errMalformed
	}
	q := &query{
		raw:         raw,
		asked:       asked,
		name:        strings.ToLower(strings.TrimSuffix(asked, ".")),
		qtype:       binary.BigEndian.Uint16(raw[end:]),
		class:       binary.BigEndian.Uint16(raw[end+2:]),
		questionEnd: end + questionRR,
		udpSize:     minUDPSize,
	}
	if !q.findOPT() {
		return nil, errMalformed
	}
	q.plain = q.isPlain()
	return q, nil
}

// findOPT reads the fixed part of the OPT record. It reports false for a message
// whose records do not fit, or that has two of them (RFC 6891 section 6.1.1).
func (q *query) findOPT() bool {
	at := q.questionEnd
	for range count(q.raw, 1) + count(q.raw, 2) + count(q.raw, 3) {
		rr, ok := recordAt(q.raw, at)
		if !ok || rr.isOPT && q.edns {
			return false
		}
		if rr.isOPT {
			fixed := q.raw[rr.fixed:]
			q.edns = true
			q.udpSize = min(max(minUDPSize, int(binary.BigEndian.Uint16(fixed[2:]))), maxUDPSize)
			q.version = fixed[5]
			q.do = fixed[6]&0x80 != 0
		}
		at = rr.end
	}
	return true
}

// isPlain looks at what parseQuery has read.
func (q *query) isPlain() bool {
	if q.raw[2]&(flagAA|flagTC) != 0 || q.raw[3]&^(flagAD|flagCD) != 0 || count(q.raw, 1)+count(q.raw, 2) != 0 {
		return false
	}
	end := q.questionEnd
	if q.edns {
		// The root as owner, then size, extended rcode, version, DO and no other
		// flag, and no option (RFC 6891 section 6.1).
		end += 1 + recordRR
		if len(q.raw) != end || q.version != 0 || q.raw[end-6] != 0 || q.raw[end-4]&0x7f != 0 || q.raw[end-3] != 0 {
			return false
		}
	}
	return len(q.raw) == end
}

// count reads one of the header's four counts.
func count(msg []byte, section int) int {
	return int(binary.BigEndian.Uint16(msg[countsAt+2*section:]))
}

func setCount(msg []byte, section, n int) {
	binary.BigEndian.PutUint16(msg[countsAt+2*section:], uint16(n))
}

// skipName returns the offset behind the name at off. A compression pointer ends
// a name (RFC 1035 section 4.1.4); where it leads is not looked at.
func skipName(msg []byte, off int) (int, bool) {
	for off < len(msg) {
		switch length := int(msg[off]); {
		case length == 0:
			return off + 1, true
		case length&0xc0 == 0xc0:
			return off + 2, off+2 <= len(msg)
		case length&0xc0 != 0:
			return 0, false
		default:
			off += 1 + length
		}
	}
	return 0, false
}

// record is where a resource record lies in a message.
type record struct {
	fixed int // behind the owner's name
	end   int
	isOPT bool
}

func recordAt(msg []byte, at int) (record, bool) {
	fixed, ok := skipName(msg, at)
	if !ok || fixed+recordRR > len(msg) {
		return record{}, false
	}
	end := fixed + recordRR + int(binary.BigEndian.Uint16(msg[fixed+8:]))
	return record{
		fixed: fixed,
		end:   end,
		isOPT: fixed == at+1 && binary.BigEndian.Uint16(msg[fixed:]) == miekg.TypeOPT,
	}, end <= len(msg)
}
