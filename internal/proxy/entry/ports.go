package entry

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Ports are the TCP ports that go through a proxy unasked.
type Ports struct {
	All  bool
	List []uint16
}

// Has reports whether a port is one of them.
func (p Ports) Has(port uint16) bool { return p.All || slices.Contains(p.List, port) }

// ParsePorts reads "", "*", or a list such as 80,443.
func ParsePorts(text string) (Ports, error) {
	text = strings.TrimSpace(text)
	if text == "*" {
		return Ports{All: true}, nil
	}
	var p Ports
	for field := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == ' ' }) {
		port, err := strconv.ParseUint(field, 10, 16)
		if err != nil || port == 0 {
			return Ports{}, fmt.Errorf("port %q, want 1 to 65535", field)
		}
		p.List = append(p.List, uint16(port))
	}
	return p, nil
}

// ParsePAC reads where a PAC script is: a URL of http or https, or a file, as an
// absolute path or a file URL. path is empty for a URL.
func ParsePAC(text string) (path string, err error) {
	if filepath.IsAbs(text) {
		return filepath.Clean(text), nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", fmt.Errorf("no URL, and no absolute path")
	}
	switch strings.ToLower(u.Scheme) {
	case "http", "https":
		if u.User != nil {
			return "", fmt.Errorf("has a user in it, and would be shown in logs: scripts are loaded without a login")
		}
		if u.Host != "" {
			return "", nil
		}
	case "file":
		if (u.Host == "" || u.Host == "localhost") && filepath.IsAbs(u.Path) {
			return filepath.Clean(u.Path), nil
		}
	}
	return "", fmt.Errorf("want a URL such as http://wpad.example/proxy.pac, or the absolute path of a file")
}
