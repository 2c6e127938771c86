package system

import (
	"net/netip"
	"os"
	"strings"
)

// Proxies is what an operating system says about proxies at one moment. It may
// hold passwords; String does not show them.
type Proxies struct {
	// HTTP and HTTPS are URLs for the two schemes, or host:port; "" for none.
	HTTP    string   `json:"http,omitempty"`
	HTTPS   string   `json:"https,omitempty"`
	PAC     string   `json:"pac,omitempty"` // URL of a PAC script, goes before the two
	Exclude []string `json:"exclude,omitempty"`
	// Source says where all this was found: "environment", "GNOME", "KDE",
	// "/etc/environment"; "" when there is nothing.
	Source string `json:"source,omitempty"`
	// Names are what HTTP, HTTPS, Exclude and PAC are called there.
	Names ProxyNames `json:"names,omitzero"`
}

// ProxyNames are names of settings.
type ProxyNames struct{ HTTP, HTTPS, PAC, Exclude string }

// String is the source: the rest may hold passwords.
func (p Proxies) String() string { return "proxies of " + p.Source }

// any reports whether something is set; exclusions alone are nothing.
func (p Proxies) any() bool { return p.HTTP != "" || p.HTTPS != "" || p.PAC != "" }

// variables reads the usual ones: lower case wins. all_proxy stands in for what
// is missing.
func variables(get func(name string) string, source string) Proxies {
	find := func(name string) (string, string) {
		for _, n := range []string{name, strings.ToUpper(name)} {
			if v := strings.TrimSpace(get(n)); v != "" {
				return v, n
			}
		}
		return "", name
	}
	p := Proxies{Source: source}
	p.HTTP, p.Names.HTTP = find("http_proxy")
	p.HTTPS, p.Names.HTTPS = find("https_proxy")
	all, name := find("all_proxy")
	if p.HTTP == "" && all != "" {
		p.HTTP, p.Names.HTTP = all, name
	}
	if p.HTTPS == "" && all != "" {
		p.HTTPS, p.Names.HTTPS = all, name
	}
	if !p.any() {
		return Proxies{}
	}
	no, name := find("no_proxy")
	p.Names.Exclude = name
	for _, field := range strings.FieldsFunc(no, func(r rune) bool { return r == ',' || r == ' ' }) {
		p.Exclude = append(p.Exclude, below(field))
	}
	return p
}

// below makes .name of name: in no_proxy a name stands for what is below it, too.
func below(field string) string {
	host, _, _ := strings.Cut(field, ":")
	if _, err := netip.ParseAddr(host); err == nil || strings.ContainsAny(field, "/*[<") || strings.HasPrefix(field, ".") || strings.Count(field, ":") > 1 {
		return field
	}
	return "." + field
}

// parseEnvironment reads environment(5): NAME=VALUE lines.
func parseEnvironment(text []byte) map[string]string {
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		value = strings.TrimSpace(value)
		for _, quote := range []string{`"`, "'"} {
			if len(value) > 1 && strings.HasPrefix(value, quote) && strings.HasSuffix(value, quote) {
				value = value[1 : len(value)-1]
				break
			}
		}
		values[strings.TrimSpace(name)] = value
	}
	return values
}

// wpad is where a PAC script is looked for when a desktop says "automatically".
const wpad = "http://wpad/wpad.dat"

// parseKDE reads the group [Proxy Settings] of kioslaverc.
func parseKDE(text []byte) Proxies {
	values := map[string]string{}
	inside := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			inside = line == "[Proxy Settings]"
			continue
		}
		if name, value, ok := strings.Cut(line, "="); ok && inside {
			name, _, _ = strings.Cut(strings.TrimSpace(name), "[") // NAME[$e]
			values[name] = strings.TrimSpace(value)
		}
	}
	p := Proxies{Source: "KDE", Names: ProxyNames{"httpProxy", "httpsProxy", "Proxy Config Script", "NoProxyFor"}}
	switch values["ProxyType"] {
	case "1":
		p.HTTP, p.HTTPS = kdeURL(values["httpProxy"], "http"), kdeURL(values["httpsProxy"], "http")
		if socks := kdeURL(values["socksProxy"], "socks5"); socks != "" && p.HTTP == "" && p.HTTPS == "" {
			p.HTTP, p.HTTPS, p.Names.HTTP, p.Names.HTTPS = socks, socks, "socksProxy", "socksProxy"
		}
		if no := values["NoProxyFor"]; no != "" && values["ReversedException"] != "true" {
			p.Exclude = list(no)
		}
	case "2":
		p.PAC = values["Proxy Config Script"]
	case "3":
		p.PAC = wpad
	}
	if !p.any() {
		return Proxies{}
	}
	return p
}

// kdeURL reads "http://host 8080", KDE's own way to write it.
func kdeURL(text, scheme string) string {
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return ""
	}
	url := strings.Join(fields, ":")
	if _, rest, ok := strings.Cut(url, "://"); ok {
		url = rest
	}
	if before, _, ok := strings.Cut(text, "://"); ok && scheme == "http" {
		scheme = before
	}
	if url == "" {
		return ""
	}
	return scheme + "://" + strings.TrimSuffix(url, "/")
}

func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == ';' })
}

// readSmall is a file's text, nothing when it can't be read.
func readSmall(path string) []byte {
	text, _, err := readRegular(path, os.Open)
	if err != nil {
		return nil
	}
	return text
}
