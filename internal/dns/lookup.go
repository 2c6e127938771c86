package dns

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	miekg "github.com/miekg/dns"
)

// Lookup returns the addresses of a name as a container's query would, IPv6
// first, for our own servers that dial on a container's behalf. A name without addresses is an error.
func (s *Server) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if _, ok := miekg.IsDomainName(name); !ok || name == "" {
		return nil, fmt.Errorf("look up %q: not a domain name", name)
	}
	types := [...]uint16{miekg.TypeAAAA, miekg.TypeA}
	var found [len(types)][]netip.Addr
	var errs [len(types)]error
	var asking sync.WaitGroup
	for i, qtype := range types {
		asking.Go(func() { found[i], errs[i] = s.addresses(ctx, name, qtype) })
	}
	asking.Wait()
	all := append(found[0], found[1]...)
	for _, err := range errs {
		if err != nil && len(all) == 0 {
			return nil, fmt.Errorf("look up %s: %w", name, err)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("look up %s: it has no address", name)
	}
	return all, nil
}

// addresses asks for one type of record.
func (s *Server) addresses(ctx context.Context, name string, qtype uint16) ([]netip.Addr, error) {
	raw, err := new(miekg.Msg).SetQuestion(miekg.Fqdn(name), qtype).Pack()
	if err != nil {
		return nil, err
	}
	q, err := parseQuery(raw)
	if err != nil {
		return nil, err
	}
	q.hidden = s.filter().of(q)
	answer := s.findAs(ctx, q, overUDP)
	if answer.answer[2]&flagTC != 0 {
		answer = s.findAs(ctx, q, overTCP)
	}
	if answer.err != nil {
		return nil, answer.err
	}
	var m miekg.Msg
	if err := m.Unpack(hide(answer.answer, q)); err != nil {
		return nil, err
	}
	if m.Rcode != miekg.RcodeSuccess {
		return nil, fmt.Errorf("%s", miekg.RcodeToString[m.Rcode])
	}
	var addrs []netip.Addr
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *miekg.A:
			if addr, ok := netip.AddrFromSlice(rr.A); ok {
				addrs = append(addrs, addr.Unmap())
			}
		case *miekg.AAAA:
			if addr, ok := netip.AddrFromSlice(rr.AAAA); ok {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs, nil
}
