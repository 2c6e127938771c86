package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"

	"github.com/portolan-net/portolan/internal/proxy/entry"
)

// Config is what somebody chose for the engine or for containers, with the PAC
// script at hand.
type Config struct {
	// HTTP and HTTPS are URLs of proxies (http, https, socks5, socks5h) for the
	// two schemes, "" for none. A SOCKS proxy for https serves http, too, when
	// that has none. They may hold a user and a password.
	HTTP, HTTPS string
	// HTTPSource and HTTPSSource say where these come from, for Decision.Source.
	HTTPSource, HTTPSSource string
	// User and Password are used where a URL names none, and for the proxies that
	// Script names. User "" for none.
	User, Password string

	Exclude []Exclude

	// Script goes before HTTP and HTTPS, which then give the credentials of the
	// proxies that it names. nil for none.
	Script *Script
	// Closed: what is not excluded is blocked.
	Closed       bool
	ClosedSource string
}

// Exclude is a list of destinations that are reached without a proxy, with where
// it comes from. See entry.ParseExclusions.
type Exclude struct {
	Source  string
	Entries []string
}

// upstream is one proxy, compiled.
type upstream struct {
	route  Route
	source string
	rule   string
}

// Compile checks a Config and makes a Policy of it. Its errors name the part
// that is wrong, and hold no password.
func Compile(c Config) (*Policy, error) {
	p := &Policy{script: c.Script, closed: c.Closed, closedSource: c.ClosedSource}
	for _, list := range c.Exclude {
		entries, err := entry.ParseExclusions(list.Entries)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", list.Source, err)
		}
		for _, e := range entries {
			p.exclude = append(p.exclude, exclusion{e, list.Source})
		}
	}
	if c.User != "" {
		p.login = &login{user: c.User, password: c.Password}
	}
	var err error
	if p.http, err = compileUpstream(c, c.HTTP, cmp.Or(c.HTTPSource, "http")); err != nil {
		return nil, err
	}
	if p.https, err = compileUpstream(c, c.HTTPS, cmp.Or(c.HTTPSSource, "https")); err != nil {
		return nil, err
	}
	if p.http == nil && p.https != nil && (p.https.route.Kind == SOCKS5 || p.https.route.Kind == SOCKS5H) {
		p.http = p.https
	}
	return p, nil
}

func compileUpstream(c Config, text, source string) (*upstream, error) {
	if text == "" {
		return nil, nil
	}
	u, err := entry.ParseProxy(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	r := Route{Kind: kindOf(u.Scheme), Address: u.Address}
	switch {
	case u.HasPassword:
		r.login = &login{user: u.User, password: u.Password}
	case u.User != "":
		r.login = &login{user: u.User, password: c.Password}
	case c.User != "":
		r.login = &login{user: c.User, password: c.Password}
	}
	if (r.Kind == SOCKS5 || r.Kind == SOCKS5H) && r.login != nil && (len(r.login.user) > maxSOCKSField || len(r.login.password) > maxSOCKSField) {
		return nil, fmt.Errorf("%s: user and password of a SOCKS5 proxy have at most %d bytes each", source, maxSOCKSField)
	}
	return &upstream{route: r, source: source, rule: "proxy " + r.String()}, nil
}

func kindOf(scheme string) Kind {
	switch scheme {
	case "https":
		return HTTPS
	case "socks5":
		return SOCKS5
	case "socks5h":
		return SOCKS5H
	}
	return HTTP
}

// ParseDestination reads a URL, or a host with or without a port, as people
// type it; http and https have their usual ports, and https is meant where
// nothing is said.
func ParseDestination(text string) (Destination, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		if u, err = url.Parse("https://" + text); err != nil || u.Host == "" {
			return Destination{}, fmt.Errorf("%q: want a URL such as https://example.com/, or a host, or host:port", text)
		}
		text = ""
	}
	port, err := portOf(u)
	if err != nil {
		return Destination{}, fmt.Errorf("%q: %w", text, err)
	}
	d := Destination{Host: u.Hostname(), Port: port}
	if text != "" {
		u.User = nil
		d.URL = u.String()
	}
	if d.Host == "" {
		return Destination{}, fmt.Errorf("%q: names no host", text)
	}
	return d, nil
}

func portOf(u *url.URL) (uint16, error) {
	text := u.Port()
	if text == "" {
		text = map[string]string{"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21", "ssh": "22", "git": "9418"}[u.Scheme]
	}
	if text == "" {
		return 0, errors.New("names no port")
	}
	return parsePort(text)
}
