package proxy

import "context"

// Policy is a compiled Config. It never changes and is shared between
// goroutines. A nil Policy is one in which everything is direct.
type Policy struct {
	config Config
}

// Config is what somebody chose, for the engine or for containers.
type Config struct {
	HTTP, HTTPS string   // URLs of proxies: http, https, socks5, socks5h; "" for none
	Exclude     []string // host, .suffix, *.suffix, address or CIDR, each with an optional :port
	Closed      bool     // what is not excluded is blocked
}

// Compile checks a Config and makes a Policy of it.
func Compile(c Config) (*Policy, error) { return &Policy{config: c}, nil }

// Decide says how to reach a destination. An error means that it can't be
// reached: a PAC script failed (PACError). It may run that script, which is
// bounded in time.
func (p *Policy) Decide(context.Context, Destination) (Decision, error) {
	return Decision{Routes: []Route{{}}, Source: "default", Rule: "no proxy is configured"}, nil
}

// Configured reports whether anything but the direct way is possible.
func (p *Policy) Configured() bool { return false }

// Closed reports whether whatever is not excluded is blocked, UDP and ICMP
// included: containersProxy.transparentPorts "*" without a proxy.
func (p *Policy) Closed() bool { return p != nil && p.config.Closed }

// Exclusions are the entries that lead past the proxies, as they were written.
// NO_PROXY is made of them.
func (p *Policy) Exclusions() []string { return nil }
