package proxy

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/portolan-net/portolan/internal/proxy/entry"
)

// Policy is a compiled Config. It never changes and is shared between
// goroutines. A nil Policy is one in which everything is direct.
type Policy struct {
	exclude      []exclusion
	closed       bool
	closedSource string
	script       *Script
	http, https  *upstream
	login        *login // for the script's proxies; nil for none
}

// exclusion is one entry with its source.
type exclusion struct {
	entry.Exclusion
	source string
}

// Decide says how to reach a destination. An error means that it can't be
// reached: the PAC script failed (PACError). It may run that script, which is
// bounded in time.
func (p *Policy) Decide(ctx context.Context, to Destination) (Decision, error) {
	if p == nil {
		return direct("default", "no proxy is configured"), nil
	}
	to.Host = strings.Trim(to.Host, "[]")
	for _, e := range p.exclude {
		if e.Match(to.Host, to.Port) {
			return direct(e.source, "exclude "+e.String()), nil
		}
	}
	if p.closed {
		return Decision{Routes: []Route{{Kind: Blocked}}, Source: p.closedSource, Rule: "no proxy is configured, and what is not excluded is blocked"}, nil
	}
	if rule := near(to.Host); rule != "" {
		return direct("built in", rule), nil
	}
	if p.script != nil {
		return p.scripted(ctx, to)
	}
	chosen := p.https
	if to.scheme() == "http" {
		chosen = p.http
	}
	if chosen == nil {
		if p.http == nil && p.https == nil {
			return direct("default", "no proxy is configured"), nil
		}
		return direct("default", "no proxy is configured for "+to.scheme()), nil
	}
	return Decision{Routes: []Route{chosen.route}, Source: chosen.source, Rule: chosen.rule}, nil
}

func direct(source, rule string) Decision {
	return Decision{Routes: []Route{{}}, Source: source, Rule: rule}
}

// scripted asks the PAC script, and gives its proxies the credentials of those
// that the settings name.
func (p *Policy) scripted(ctx context.Context, to Destination) (Decision, error) {
	routes, rule, err := p.script.Find(ctx, to)
	if err != nil {
		if _, ok := errors.AsType[*PACError](err); !ok {
			err = &PACError{Source: p.script.Source(), Err: err}
		}
		return Decision{Routes: []Route{{Kind: Blocked}}, Source: "PAC " + p.script.Source(), Rule: err.Error()}, err
	}
	for i, r := range routes {
		if r.Address != "" {
			routes[i].login = p.login
		}
		for _, u := range []*upstream{p.http, p.https} {
			if u != nil && u.route.login != nil && strings.EqualFold(u.route.Address, r.Address) {
				routes[i].login = u.route.login
			}
		}
	}
	return Decision{Routes: routes, Source: "PAC " + p.script.Source(), Rule: rule}, nil
}

// ownDomains are those whose names Portolan gives.
var ownDomains = []string{"docker.internal", "portolan.internal", "localhost"}

// near says why a destination is never reached by way of a proxy, "" for one
// that may be.
func near(host string) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap()
		switch {
		case addr.IsLoopback():
			return "loopback is always direct"
		case addr.IsLinkLocalUnicast():
			return "link-local addresses are always direct"
		}
		return ""
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	for _, domain := range ownDomains {
		if host == domain || strings.HasSuffix(host, "."+domain) {
			return "names in " + domain + " are always direct"
		}
	}
	return ""
}

// Configured reports whether anything but the direct way is possible.
func (p *Policy) Configured() bool {
	return p != nil && (p.closed || p.script != nil || p.http != nil || p.https != nil)
}

// Closed reports whether whatever is not excluded is blocked, UDP and ICMP
// included: containersProxy.transparentPorts "*" without a proxy.
func (p *Policy) Closed() bool { return p != nil && p.closed }

// Exclusions are the entries that lead past the proxies, one each, as they were
// written. NO_PROXY is made of them.
func (p *Policy) Exclusions() []string {
	if p == nil {
		return nil
	}
	list := make([]string, len(p.exclude))
	for i, e := range p.exclude {
		list[i] = e.String()
	}
	return list
}
