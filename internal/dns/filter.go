package dns

import (
	"slices"

	miekg "github.com/miekg/dns"
)

// Filter says which address records are hidden. The zero Filter hides nothing.
type Filter struct {
	A, AAAA bool // from names that others answer for, and the hosts file
	// OwnA and OwnAAAA hide from the names that Portolan gives: they stay when the
	// host alone lacks a family, for they never leave it.
	OwnA, OwnAAAA bool
}

// families are hidden from one answer.
type families struct{ a, aaaa bool }

// of is what is hidden from the answer to q. The name localhost means the
// container itself, which has both.
func (f Filter) of(q *query) families {
	switch {
	case q.class != miekg.ClassINET || isLocalhost(q.name):
		return families{}
	case isOwn(q.name):
		return families{f.OwnA, f.OwnAAAA}
	}
	return families{f.A, f.AAAA}
}

// isOwn reports the names that Portolan gives.
func isOwn(name string) bool {
	switch name {
	case nameHost, nameGateway, nameProxy, nameMachine:
		return true
	}
	return false
}

// hide takes the records of hidden families out of an answer, and their hints out
// of HTTPS and SVCB records (RFC 9460, 7.3). What is left of an answer without
// records is NOERROR without data, as for a name that never had them; NXDOMAIN
// stays NXDOMAIN. An answer that holds nothing to hide is not touched, and neither
// is one that can't be parsed, unless it is all about a hidden type.
func hide(answer []byte, q *query) []byte {
	a, aaaa := q.hidden.a, q.hidden.aaaa
	if !a && !aaaa || len(answer) < headerSize {
		return answer
	}
	m := new(miekg.Msg)
	if err := m.Unpack(answer); err != nil {
		if a && q.qtype == miekg.TypeA || aaaa && q.qtype == miekg.TypeAAAA {
			return pack(reply(q, miekg.RcodeSuccess), q)
		}
		return answer
	}
	changed := false
	clean := func(records []miekg.RR) []miekg.RR {
		return slices.DeleteFunc(records, func(rr miekg.RR) bool {
			gone := a && hides(rr, miekg.TypeA) || aaaa && hides(rr, miekg.TypeAAAA)
			hint4 := a && dropHint(rr, miekg.SVCB_IPV4HINT)
			hint6 := aaaa && dropHint(rr, miekg.SVCB_IPV6HINT)
			changed = changed || gone || hint4 || hint6
			return gone
		})
	}
	m.Answer, m.Extra = clean(m.Answer), clean(m.Extra)
	if !changed {
		return answer
	}
	m.AuthenticatedData = false // it is not what was signed
	m.Compress = true
	out, err := m.Pack()
	if err != nil || !readable(out) {
		return pack(reply(q, miekg.RcodeSuccess), q)
	}
	return out
}

// readable tells whether a message that was written anew can be read: of records that
// are too short the parser takes some.
func readable(msg []byte) bool { return new(miekg.Msg).Unpack(msg) == nil }

// hides reports whether rr is of the type, or a signature over that type.
func hides(rr miekg.RR, rrtype uint16) bool {
	if sig, ok := rr.(*miekg.RRSIG); ok {
		return sig.TypeCovered == rrtype
	}
	return rr.Header().Rrtype == rrtype
}

// dropHint takes a parameter out of an HTTPS or SVCB record, and its name out of
// the mandatory ones. It reports whether it was there.
func dropHint(rr miekg.RR, key miekg.SVCBKey) bool {
	var params *[]miekg.SVCBKeyValue
	switch rr := rr.(type) {
	case *miekg.HTTPS:
		params = &rr.Value
	case *miekg.SVCB:
		params = &rr.Value
	default:
		return false
	}
	before := len(*params)
	*params = slices.DeleteFunc(*params, func(p miekg.SVCBKeyValue) bool { return p.Key() == key })
	if len(*params) == before {
		return false
	}
	*params = slices.DeleteFunc(*params, func(p miekg.SVCBKeyValue) bool {
		mandatory, ok := p.(*miekg.SVCBMandatory)
		if !ok {
			return false
		}
		mandatory.Code = slices.DeleteFunc(mandatory.Code, func(k miekg.SVCBKey) bool { return k == key })
		return len(mandatory.Code) == 0
	})
	return true
}
