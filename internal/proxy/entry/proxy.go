package entry

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Proxy is the URL of a proxy, taken apart.
type Proxy struct {
	Scheme  string // http, https, socks5 or socks5h
	Address string // host:port
	User    string
	// Password is a secret. HasPassword tells an empty one from none.
	Password    string
	HasPassword bool
}

// schemes and the port of each when none is named.
var schemes = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080", "socks": "1080"}

// ParseProxy reads the URL of a proxy. Without a scheme it is http, as in
// http_proxy=proxy.example:3128; socks is socks5. Its errors never quote what
// could be a password.
func ParseProxy(text string) (Proxy, error) {
	text = strings.TrimSpace(text)
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		var wrong *url.Error
		if errors.As(err, &wrong) && !strings.Contains(text, "@") {
			err = wrong.Err
		} else {
			err = errors.New("write special characters of the password as %XX")
		}
		return Proxy{}, fmt.Errorf("no URL: %w", err)
	}
	if u.User == nil && strings.Contains(text, "@") { // what follows might quote the password
		return Proxy{}, errors.New("no URL: write special characters of the password as %XX")
	}
	scheme := strings.ToLower(u.Scheme)
	port, known := schemes[scheme]
	if !known {
		return Proxy{}, fmt.Errorf("scheme %q, want http, https, socks5 or socks5h", u.Scheme)
	}
	if scheme == "socks" {
		scheme = "socks5"
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return Proxy{}, fmt.Errorf("port %q, want 1 to 65535", port)
	}
	host := u.Hostname()
	if host == "" || strings.ContainsAny(host, " \t\r\n/") {
		return Proxy{}, errors.New("names no host, want such as http://proxy.example:3128")
	}
	if !slices.Contains([]string{"", "/"}, u.Path) || u.RawQuery != "" || u.Fragment != "" {
		return Proxy{}, errors.New("has more than scheme, user and address, want such as http://proxy.example:3128")
	}
	p := Proxy{Scheme: scheme, Address: net.JoinHostPort(host, port), User: u.User.Username()}
	p.Password, p.HasPassword = u.User.Password()
	if strings.ContainsAny(p.User, ":\r\n\x00") || strings.ContainsAny(p.Password, "\r\n\x00") {
		return Proxy{}, errors.New("user or password holds a character that no proxy takes: a colon in the user, a line break")
	}
	return p, nil
}

// hidden stands for a password.
const hidden = "***"

// Mask replaces the password in the URL of a proxy, whatever else is wrong with
// the URL.
func Mask(text string) string {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		scheme, rest = "", text
	} else {
		scheme += "://"
	}
	at := strings.LastIndexByte(rest, '@')
	if at < 0 {
		return text
	}
	user, _, password := strings.Cut(rest[:at], ":")
	if !password {
		return text
	}
	return scheme + user + ":" + hidden + rest[at:]
}
