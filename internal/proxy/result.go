package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// rejectHost and port 1, as a proxy of a PAC script, block.
const rejectHost = "reject.docker.internal"

// ParseResult reads what FindProxyForURL returned: "PROXY a:3128; SOCKS5 b;
// DIRECT". An empty text is DIRECT. Kinds that nobody here speaks (SOCKS4, QUIC)
// are passed over; when nothing is left, that is an error.
func ParseResult(text string) ([]Route, error) {
	if strings.TrimSpace(text) == "" {
		return []Route{{}}, nil
	}
	var routes []Route
	var wrong error
	for part := range strings.SplitSeq(text, ";") {
		fields := strings.Fields(part)
		if len(fields) == 0 {
			continue
		}
		r, err := parseRoute(fields)
		if err != nil {
			wrong = errors.Join(wrong, err)
			continue
		}
		routes = append(routes, r)
	}
	if len(routes) == 0 {
		if wrong == nil {
			wrong = errors.New("names no way")
		}
		return nil, fmt.Errorf("it returned %q: %w", printable(text), wrong)
	}
	return routes, nil
}

func parseRoute(fields []string) (Route, error) {
	r := Route{}
	port := ""
	switch strings.ToUpper(fields[0]) {
	case "DIRECT":
		if len(fields) != 1 {
			return r, fmt.Errorf("DIRECT %s: want DIRECT alone", fields[1])
		}
		return r, nil
	case "PROXY", "HTTP":
		r.Kind, port = HTTP, "80"
	case "HTTPS":
		r.Kind, port = HTTPS, "443"
	case "SOCKS", "SOCKS5":
		r.Kind, port = SOCKS5H, "1080" // as browsers do, with the name
	default:
		return r, fmt.Errorf("%s: want PROXY, HTTPS, SOCKS, SOCKS5 or DIRECT", fields[0])
	}
	if len(fields) != 2 {
		return r, fmt.Errorf("%s: want one host:port behind it", fields[0])
	}
	host, port, err := splitAddress(fields[1], port)
	if err != nil {
		return r, err
	}
	if strings.EqualFold(host, rejectHost) && port == "1" {
		return Route{Kind: Blocked}, nil
	}
	r.Address = net.JoinHostPort(host, port)
	return r, nil
}

// splitAddress reads host:port, host, [v6]:port and [v6].
func splitAddress(text, port string) (string, string, error) {
	host := text
	if colon := strings.LastIndexByte(text, ':'); colon > strings.LastIndexByte(text, ']') {
		host, port = text[:colon], text[colon+1:]
	}
	if _, err := parsePort(port); err != nil {
		return "", "", fmt.Errorf("%s: %w", text, err)
	}
	if bare, ok := strings.CutPrefix(host, "["); ok {
		bare, closed := strings.CutSuffix(bare, "]")
		if _, err := netip.ParseAddr(bare); err != nil || !closed {
			return "", "", fmt.Errorf("%s: want an address between the brackets", text)
		}
		return bare, port, nil
	}
	if host == "" || strings.ContainsAny(host, "/@:[]?#") {
		return "", "", fmt.Errorf("%s: want host:port", text)
	}
	return host, port, nil
}

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("port %q, want 1 to 65535", text)
	}
	return uint16(port), nil
}
