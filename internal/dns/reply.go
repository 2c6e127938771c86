package dns

import (
	"errors"

	miekg "github.com/miekg/dns"
)

// ownUDPSize is the size that our own answers announce: what crosses every
// network without fragments (DNS flag day 2020).
const ownUDPSize = 1232

// rejection answers bytes that parseQuery refused with err: a header alone, since
// the rest can't be trusted, or nil where even that is not due. What is itself an
// answer is never answered, or two servers would talk for ever.
func rejection(raw []byte, err error) []byte {
	rcode := byte(miekg.RcodeFormatError)
	switch {
	case errors.Is(err, errNotAQuery):
		return nil
	case errors.Is(err, errNotImplemented):
		rcode = miekg.RcodeNotImplemented
	}
	answer := make([]byte, headerSize)
	copy(answer, raw[:4])
	answer[2] = flagQR | raw[2]&0x79 // opcode and RD
	answer[3] = flagRA | rcode
	return answer
}

// reply is an empty answer of our own to q.
func reply(q *query, rcode int) *miekg.Msg {
	m := new(miekg.Msg)
	m.Id = uint16(q.raw[0])<<8 | uint16(q.raw[1])
	m.Response = true
	m.RecursionDesired = q.raw[2]&flagRD != 0
	m.RecursionAvailable = true
	m.CheckingDisabled = q.raw[3]&flagCD != 0
	m.Rcode = rcode
	m.Compress = true
	m.Question = []miekg.Question{{Name: q.asked, Qtype: q.qtype, Qclass: q.class}}
	if q.edns {
		m.SetEdns0(ownUDPSize, q.do)
	}
	return m
}

// failure is SERVFAIL (or REFUSED for what we never forward), with the reason for
// clients that read extended errors (RFC 8914). The reason names no address of the
// host.
func failure(q *query, err error) []byte {
	rcode, ede := miekg.RcodeServerFailure, miekg.EDNS0_EDE{InfoCode: miekg.ExtendedErrorCodeNetworkError}
	switch {
	case errors.Is(err, errTransfer):
		rcode, ede.InfoCode = miekg.RcodeRefused, miekg.ExtendedErrorCodeNotSupported
		ede.ExtraText = errTransfer.Error()
	case errors.Is(err, errNoServers):
		ede.ExtraText = errNoServers.Error()
	default:
		ede.ExtraText = errSilence.Error()
	}
	m := reply(q, rcode)
	if opt := m.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &ede)
	}
	return pack(m, q)
}

// pack turns our own message into bytes. Nothing in it can fail to pack but a name
// from the hosts file, and then the client is told SERVFAIL.
func pack(m *miekg.Msg, q *query) []byte {
	if out, err := m.Pack(); err == nil {
		return out
	}
	out := append([]byte(nil), q.raw[:q.questionEnd]...)
	out[2] |= flagQR
	out[3] = flagRA | miekg.RcodeServerFailure
	setCount(out, 1, 0)
	setCount(out, 2, 0)
	setCount(out, 3, 0)
	return out
}
