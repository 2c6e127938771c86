package proxy

import (
	"encoding/base64"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Destination is what somebody wants to reach.
type Destination struct {
	Host string // a name or an address, without brackets
	Port uint16
	// URL is shown to PAC scripts. Empty: it is built of host and port.
	URL string
}

// Address is host:port, with brackets where needed.
func (d Destination) Address() string {
	return net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port)))
}

// maxURL bounds what a PAC script looks through, perhaps a thousand times: URLs
// are a container's to choose.
const maxURL = 4 << 10

// url is what a PAC script sees: http for port 80, else https. Path and query
// of https are the client's own business, those of endless URLs nobody's.
func (d Destination) url() string {
	if d.URL != "" {
		u, err := url.Parse(d.URL)
		if err == nil && (u.Scheme != "http" || len(d.URL) > maxURL) {
			return u.Scheme + "://" + u.Host + "/"
		}
		return d.URL
	}
	host := d.Host
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		host = "[" + host + "]"
	}
	switch d.Port {
	case 80:
		return "http://" + host + "/"
	case 443:
		return "https://" + host + "/"
	}
	return "https://" + host + ":" + strconv.Itoa(int(d.Port)) + "/"
}

// scheme is that of the URL, in lower case.
func (d Destination) scheme() string {
	scheme, _, _ := strings.Cut(d.url(), ":")
	return strings.ToLower(scheme)
}

// Kind says how a route is walked.
type Kind int

// The kinds. The zero value is Direct.
const (
	Direct  Kind = iota // as the host would
	HTTP                // CONNECT over TCP to the proxy; absolute-form works, too
	HTTPS               // CONNECT over TLS to the proxy; absolute-form works, too
	SOCKS5              // names are looked up here
	SOCKS5H             // names are looked up by the proxy
	Blocked             // not at all
)

// String is the scheme of the proxy's URL, or the word for having none.
func (k Kind) String() string {
	switch k {
	case Direct:
		return "direct"
	case HTTP:
		return "http"
	case HTTPS:
		return "https"
	case SOCKS5:
		return "socks5"
	case SOCKS5H:
		return "socks5h"
	}
	return "blocked"
}

// MarshalText makes JSON say the word.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Route is one way to a destination. Its credentials are not printed by any
// verb, nor are they in its JSON.
type Route struct {
	Kind    Kind   `json:"kind"`
	Address string `json:"address,omitempty"` // host:port of the proxy

	login *login
}

// login is a user's name and password. It is behind a pointer, and prints as
// nothing, so that %+v of whatever holds it shows neither.
type login struct{ user, password string }

func (*login) String() string   { return "(hidden)" }
func (*login) GoString() string { return "(hidden)" }

// String is kind://address, without credentials.
func (r Route) String() string {
	if r.Address == "" {
		return r.Kind.String()
	}
	return r.Kind.String() + "://" + r.Address
}

// GoString is String, so that %#v tells no more.
func (r Route) GoString() string { return r.String() }

// Authorization is the value of a Proxy-Authorization header for this route
// (RFC 7617), "" without credentials. It is a secret.
func (r Route) Authorization() string {
	if r.login == nil {
		return ""
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(r.login.user+":"+r.login.password))
}

// Decision is how a destination is reached, and why.
type Decision struct {
	Routes []Route `json:"routes"` // in the order in which they are tried; never empty
	Source string  `json:"source"` // what decided: `setting proxy.https`, `environment https_proxy`, `PAC http://wpad/proxy.pac`
	Rule   string  `json:"rule"`   // the entry or line that did: `exclude .corp.example`, `line 7: return "PROXY a:3128"`
}

// Direct reports whether the first way is the direct one.
func (d Decision) Direct() bool { return len(d.Routes) == 0 || d.Routes[0].Kind == Direct }

// Blocked reports whether there is no way at all.
func (d Decision) Blocked() bool { return len(d.Routes) > 0 && d.Routes[0].Kind == Blocked }
