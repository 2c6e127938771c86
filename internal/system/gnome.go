package system

import (
	"net"
	"net/url"
	"strings"
)

// gnomeSchema is the schema of gsettings that holds GNOME's proxies, and gnomeArgs
// prints it, with the schemas below it.
const gnomeSchema = "org.gnome.system.proxy"

func gnomeArgs() []string { return []string{"gsettings", "list-recursively", gnomeSchema} }

// parseGNOME reads what gnomeArgs prints: SCHEMA KEY VALUE, the value as GVariant
// text.
func parseGNOME(text []byte) Proxies {
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(fields) != 3 || !strings.HasPrefix(fields[0], gnomeSchema) {
			continue
		}
		group := strings.TrimPrefix(strings.TrimPrefix(fields[0], gnomeSchema), ".")
		values[strings.TrimPrefix(group+"/"+fields[1], "/")] = fields[2]
	}
	p := Proxies{Source: "GNOME", Names: ProxyNames{gnomeSchema + ".http", gnomeSchema + ".https", gnomeSchema + " autoconfig-url", gnomeSchema + " ignore-hosts"}}
	p.Exclude = variantStrings(values["ignore-hosts"])
	switch variantString(values["mode"]) {
	case "auto":
		if p.PAC = variantString(values["autoconfig-url"]); p.PAC == "" {
			p.PAC = wpad
		}
	case "manual":
		p.HTTP, p.HTTPS = gnomeURL(values, "http", "http"), gnomeURL(values, "https", "http")
		if socks := gnomeURL(values, "socks", "socks5"); socks != "" {
			if p.HTTP == "" {
				p.HTTP, p.Names.HTTP = socks, gnomeSchema+".socks"
			}
			if p.HTTPS == "" {
				p.HTTPS, p.Names.HTTPS = socks, gnomeSchema+".socks"
			}
		}
	}
	if !p.any() {
		return Proxies{}
	}
	return p
}

func gnomeURL(values map[string]string, group, scheme string) string {
	host, port := variantString(values[group+"/host"]), values[group+"/port"]
	if host == "" || port == "" || port == "0" {
		return ""
	}
	u := url.URL{Scheme: scheme, Host: net.JoinHostPort(strings.Trim(host, "[]"), port)}
	if values[group+"/use-authentication"] == "true" {
		u.User = url.UserPassword(variantString(values[group+"/authentication-user"]), variantString(values[group+"/authentication-password"]))
	}
	return u.String()
}

// variantString reads a string in GVariant's text format.
func variantString(text string) string {
	all := variantStrings(text)
	if len(all) != 1 {
		return ""
	}
	return all[0]
}

// variantStrings reads all quoted strings of a text: 'a', ['a', "b'c"], @as [].
func variantStrings(text string) []string {
	var found []string
	for i := 0; i < len(text); i++ {
		quote := text[i]
		if quote != '\'' && quote != '"' {
			continue
		}
		var b strings.Builder
		for i++; i < len(text) && text[i] != quote; i++ {
			if text[i] == '\\' && i+1 < len(text) {
				i++
			}
			b.WriteByte(text[i])
		}
		found = append(found, b.String())
	}
	return found
}
