package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/system"
)

// Source says who knew an answer.
type Source string

// The sources, in the order in which they are asked.
const (
	FromPortolan Source = "portolan" // docker.internal, localhost
	FromHosts    Source = "hosts"    // the host's hosts file
	FromCache    Source = "cache"
	FromResolver Source = "resolver" // of the host
	FromNobody   Source = "nobody"   // no resolver answered
)

// finding is an answer, which never is nil, and where it is from.
type finding struct {
	answer []byte
	source Source
	server netip.AddrPort // of FromCache and FromResolver: who gave it
	age    time.Duration  // of FromCache
	left   time.Duration  // of FromCache: until it is forgotten
	err    error          // of FromNobody

	completed string // the name that a short one stood for
}

// Explanation is how a name is answered at this moment.
type Explanation struct {
	Rcode   string   // NOERROR, NXDOMAIN
	Records []string // of the answer section, as in a zone file
	Hidden  []string // what the filter took out of it, or changed
	// The families that the filter hides from answers to this question.
	HiddenA, HiddenAAAA bool
	NoAAAA              bool // the host's option no-aaaa is what hides
	Source              Source
	Server              netip.AddrPort // the resolver of the host that gave it; not valid for others
	Lines               []int          // of the file that names Server, or of the hosts file
	Age                 time.Duration  // how long it has been in the cache
	Left                time.Duration  // how long it stays there
	// Completed is the name that a short one stood for, with one of Search.
	Completed string
	Took      time.Duration
	Error     string           // why nobody answers
	Servers   []netip.AddrPort // the host's resolvers, in their order
	Search    []string         // the host's search domains, applied to short names
}

// Explain answers a query as a container's would be, and says how. qtype is a
// type's name, or TYPE and a number.
func (s *Server) Explain(ctx context.Context, name, qtype string) (Explanation, error) {
	number, err := parseType(qtype)
	if err != nil {
		return Explanation{}, err
	}
	if _, ok := miekg.IsDomainName(name); !ok || name == "" {
		return Explanation{}, fmt.Errorf("query %q: not a domain name", name)
	}
	raw, err := new(miekg.Msg).SetQuestion(miekg.Fqdn(name), number).Pack()
	if err != nil {
		return Explanation{}, fmt.Errorf("query %q: %w", name, err)
	}
	q, err := parseQuery(raw)
	if err != nil {
		return Explanation{}, err
	}
	q.hidden = s.filter().of(q)
	began := time.Now()
	found := s.findAs(ctx, q, overUDP)
	if found.answer[2]&flagTC != 0 {
		found = s.findAs(ctx, q, overTCP)
	}
	names := s.source.NameConfig()
	e := Explanation{
		Source: found.source, Server: found.server, Lines: linesOf(found, q, names),
		Age: found.age, Left: found.left, Took: time.Since(began), Completed: found.completed,
		Servers: names.Resolver.Servers, Search: names.Resolver.Search,
		HiddenA: q.hidden.a && q.qtype != miekg.TypeAAAA, HiddenAAAA: q.hidden.aaaa && q.qtype != miekg.TypeA,
		NoAAAA: q.hidden.aaaa && names.Resolver.NoAAAA,
	}
	if found.err != nil {
		e.Error = found.err.Error()
	}
	return e, e.read(found.answer, hide(found.answer, q))
}

// linesOf are the lines of the host's files that a finding is due to.
func linesOf(f finding, q *query, names *system.NameConfig) []int {
	switch f.source {
	case FromHosts:
		return names.Hosts.Lines(cmp.Or(f.completed, q.name))
	case FromCache, FromResolver:
		if line := names.Resolver.Line(f.server); line > 0 {
			return []int{line}
		}
	}
	return nil
}

// find waits for the one finding of resolve.
func (s *Server) find(ctx context.Context, q *query, how transport) finding {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var found finding
	s.resolve(ctx, q, how, func(f finding) {
		found = f
		cancel() // the losers of the race need not go on
	})
	return found
}

// findAs is find for names that may be short.
func (s *Server) findAs(ctx context.Context, q *query, how transport) (found finding) {
	s.complete(ctx, q, how, func(f finding) { found = f })
	return found
}

// read takes from an answer what people want to see of it, before and after the
// filter.
func (e *Explanation) read(whole, shown []byte) error {
	var before, after miekg.Msg
	if err := errors.Join(before.Unpack(whole), after.Unpack(shown)); err != nil {
		return fmt.Errorf("read answer of %s: %w", e.Server, err)
	}
	e.Rcode = miekg.RcodeToString[after.Rcode]
	e.Records = recordTexts(after.Answer)
	e.Hidden = slices.DeleteFunc(recordTexts(before.Answer), func(rr string) bool { return slices.Contains(e.Records, rr) })
	return nil
}

func recordTexts(records []miekg.RR) []string {
	texts := []string{} // in JSON a list, be it empty
	for _, rr := range records {
		texts = append(texts, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	return texts
}

// parseType reads "AAAA" or "TYPE65280" (RFC 3597, section 5).
func parseType(text string) (uint16, error) {
	text = strings.ToUpper(text)
	if number, ok := miekg.StringToType[text]; ok && number != miekg.TypeOPT && number != miekg.TypeNone {
		return number, nil
	}
	if digits, ok := strings.CutPrefix(text, "TYPE"); ok {
		if number, err := strconv.ParseUint(digits, 10, 16); err == nil && number != 0 && uint16(number) != miekg.TypeOPT {
			return uint16(number), nil
		}
	}
	return 0, fmt.Errorf("query type %q: no such type; want A, AAAA, MX, TXT or TYPE and a number", text)
}
