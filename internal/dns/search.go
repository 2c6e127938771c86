package dns

import (
	"context"
	"slices"
	"strings"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/system"
)

// Search domains. Programs apply them, from a file that each container got when it
// started, and a container outlives many a VPN. So the resolver completes short
// names itself, as this host's programs would at that moment:
//
//	labels        asked                                    why
//	one           with each domain, then as it is          as glibc; no such name is the internet's
//	< ndots dots  as it is, then with each domain          a name that exists is never another one
//	more          as it is                                 "does not exist" is an answer (DNS block lists)
//
// Only addresses are asked for in this way. The first domain in which the name
// exists answers, also when it has no address of that family: clients take "does
// not exist" for one family as the word on both. The answer begins with a CNAME to
// the name that was meant.

// complete is resolve for names that may be short. It calls found exactly once.
func (s *Server) complete(ctx context.Context, q *query, how transport, found func(finding)) {
	names := s.source.NameConfig()
	_, known := s.local.answer(q, names.Hosts)
	if names.Resolver.NoAAAA && !known && q.class == miekg.ClassINET {
		q.hidden.aaaa = true
	}
	candidates := completions(q, names.Resolver)
	if known || len(candidates) == 0 {
		s.resolve(ctx, q, how, found)
		return
	}
	if strings.Contains(q.name, ".") {
		candidates = slices.Insert(candidates, 0, q)
	} else {
		candidates = append(candidates, q)
	}
	found(s.firstOf(ctx, q, candidates, how))
}

// firstOf asks one name after the other until one exists. If none does, the answer
// is what was said about q itself, or SERVFAIL where a resolver failed to tell.
func (s *Server) firstOf(ctx context.Context, q *query, candidates []*query, how transport) finding {
	var unknown, failed *finding
	for _, c := range candidates {
		f := s.find(ctx, c, how)
		rcode := f.answer[3] & 0xf
		switch {
		case f.err != nil:
			return finding{answer: failure(q, f.err), source: f.source, err: f.err}
		case rcode == miekg.RcodeSuccess && c == q:
			return f
		case rcode == miekg.RcodeSuccess:
			if answer, ok := asked(q, c, f.answer); ok {
				f.answer, f.completed = answer, c.asked
				return f
			}
		case c == q:
			unknown = &f
		case rcode != miekg.RcodeNameError && failed == nil:
			failed = &f
		}
	}
	if failed != nil && unknown.answer[3]&0xf == miekg.RcodeNameError {
		failed.answer = pack(reply(q, miekg.RcodeServerFailure), q)
		return *failed
	}
	return *unknown
}

// completions are q with each of the host's search domains, if q is short.
func completions(q *query, resolver system.Resolver) []*query {
	if q.class != miekg.ClassINET || q.qtype != miekg.TypeA && q.qtype != miekg.TypeAAAA ||
		q.name == "" || strings.Count(q.name, ".") >= max(resolver.NDots, 1) {
		return nil
	}
	var all []*query
	for _, domain := range resolver.Search {
		if domain == "." {
			continue
		}
		if c, ok := q.renamed(q.asked + domain + "."); ok {
			all = append(all, c)
		}
	}
	return all
}

// renamed is the same query for another name; false for what is no name, being too
// long, say.
func (q *query) renamed(name string) (*query, bool) {
	raw := make([]byte, maxQuery)
	copy(raw, q.raw[:headerSize])
	end, err := miekg.PackDomainName(name, raw, headerSize, nil, false)
	if err != nil {
		return nil, false
	}
	raw = append(raw[:end], q.raw[q.questionEnd-questionRR:]...)
	c, err := parseQuery(raw)
	if err != nil {
		return nil, false
	}
	c.hidden = q.hidden
	return c, true
}

// asked turns the answer to c, a completion of q, into one to q.
func asked(q, c *query, answer []byte) ([]byte, bool) {
	var m miekg.Msg
	if err := m.Unpack(answer); err != nil {
		return nil, false
	}
	ttl := uint32(ownTTL)
	if len(m.Answer) > 0 {
		ttl = m.Answer[0].Header().Ttl
	}
	out := reply(q, miekg.RcodeSuccess)
	out.Truncated = m.Truncated
	name := miekg.RR_Header{Name: q.asked, Rrtype: miekg.TypeCNAME, Class: miekg.ClassINET, Ttl: ttl}
	out.Answer = append([]miekg.RR{&miekg.CNAME{Hdr: name, Target: c.asked}}, m.Answer...)
	out.Ns = m.Ns
	whole := pack(out, q)
	return whole, readable(whole)
}
