package settings

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/portolan-net/portolan/internal/portolan"
	proxies "github.com/portolan-net/portolan/internal/proxy/entry"
	"github.com/portolan-net/portolan/internal/system"
)

// Value is a setting's value as compact JSON, always in the same form, so that
// equal values are equal texts.
type Value string

// MarshalJSON writes the value itself.
func (v Value) MarshalJSON() ([]byte, error) { return []byte(v), nil }

// UnmarshalJSON reads any JSON.
func (v *Value) UnmarshalJSON(text []byte) error {
	var buf bytes.Buffer
	err := json.Compact(&buf, text)
	*v = Value(buf.String())
	return err
}

// Text is the value for people: a string without its quotes.
func (v Value) Text() string {
	var text string
	if json.Unmarshal([]byte(v), &text) == nil {
		return text
	}
	return string(v)
}

// encode writes what JSON can hold.
func encode(v any) Value {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // only strings, booleans, lists and objects come here
	}
	return Value(strings.TrimSpace(buf.String()))
}

// value reads a node as this key wants it. The second result says what is wrong,
// "" for nothing.
func (k Key) value(n node) (Value, string) {
	switch v := n.value.(type) {
	case bool:
		if k.Type == Boolean {
			return encode(v), ""
		}
	case string:
		return k.fromString(v)
	case []node:
		return k.fromList(v)
	case object:
		if k.Type == Options {
			return encode(n.plain()), ""
		}
	}
	return "", fmt.Sprintf("%s, want %s", describe(n.value), k.wants())
}

func (k Key) fromString(text string) (Value, string) {
	wrong := fmt.Sprintf("%q, want %s", text, k.wants())
	switch k.Type {
	case String:
		if k.Values == nil || slices.Contains(k.Values, text) {
			return encode(text), ""
		}
	case Subnet4, Subnet6:
		if subnet, ok := k.subnet(text); ok {
			return encode(subnet.String()), ""
		}
	case Ports:
		if ports, err := system.ParsePortRange(text); err == nil {
			return encode(ports.String()), ""
		}
	case Socket:
		if text == "" || text == "none" || filepath.IsAbs(text) && filepath.Clean(text) == text {
			return encode(text), ""
		}
	case Address:
		if text == "" {
			return `""`, ""
		}
		// Anybody else on the network is not to learn what runs here.
		if addr, err := netip.ParseAddrPort(text); err == nil && addr.Addr().IsLoopback() && addr.Port() != 0 {
			return encode(addr.String()), ""
		}
	case ProxyURL, PAC, PortSet:
		if reason := proxyText(k.Type, text); reason != "" {
			return "", reason
		}
		return encode(text), ""
	case Options:
		if strings.TrimSpace(text) == "" {
			return `{}`, ""
		}
		inner, err := parseTree("in the string", []byte(text))
		if err != nil {
			return "", fmt.Sprintf("%v; want a JSON object", err)
		}
		return encode(node{value: inner}.plain()), ""
	case List, Exclusions, Boolean:
	}
	return "", wrong
}

// subnet reads a network that can be the machine's link.
func (k Key) subnet(text string) (netip.Prefix, bool) {
	subnet, err := netip.ParsePrefix(text)
	link := portolan.DefaultLink()
	if k.Type == Subnet4 {
		link.V4 = subnet
	} else {
		link.V6 = subnet
	}
	return subnet, err == nil && link.Validate() == nil && usable(subnet)
}

// usable keeps a link from hiding what everybody needs to reach, the loopback
// for one; and from being so wide that nothing else is left.
func usable(subnet netip.Prefix) bool {
	addr := subnet.Addr()
	if addr.IsLoopback() || addr.IsMulticast() || addr.IsLinkLocalUnicast() || addr.IsUnspecified() {
		return false
	}
	const widest4, widest6 = 8, 32
	return addr.Is4() && subnet.Bits() >= widest4 && addr.As4()[0] < 224 || addr.Is6() && subnet.Bits() >= widest6
}

func (k Key) fromList(items []node) (Value, string) {
	if k.Type != List && k.Type != Exclusions {
		return "", "a list, want " + k.wants()
	}
	list := make([]string, len(items))
	for i, item := range items {
		text, ok := item.value.(string)
		if !ok {
			return "", fmt.Sprintf("%s in the list, want %s", describe(item.value), k.wants())
		}
		list[i] = text
	}
	if k.Type == Exclusions {
		if _, err := proxies.ParseExclusions(list); err != nil {
			return "", err.Error()
		}
	}
	return encode(list), ""
}

// FromText reads a value as it is typed: strings without quotes, lists with
// commas, all else as JSON.
func (k Key) FromText(text string) (Value, error) {
	n := node{value: text}
	switch {
	case k.Type == Boolean && (text == "true" || text == "false"):
		n.value = text == "true"
	case k.isList() && !strings.HasPrefix(strings.TrimSpace(text), "["):
		items := []node{}
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				items = append(items, node{value: part})
			}
		}
		n.value = items
	case k.isList():
		var list []string
		if json.Unmarshal([]byte(text), &list) == nil {
			items := []node{}
			for _, item := range list {
				items = append(items, node{value: item})
			}
			n.value = items
		}
	}
	v, wrong := k.value(n)
	if wrong != "" {
		return "", fmt.Errorf("%s: %s", k.Name, wrong)
	}
	return v, nil
}

// wants says what a value should be.
func (k Key) wants() string {
	switch {
	case k.Values != nil:
		return "one of " + strings.Join(k.Values, ", ")
	case k.Type == Boolean:
		return "true or false"
	case k.isList():
		return "a list of strings, such as [\"a\", \"b\"]"
	case k.Type == Subnet4:
		return "an IPv4 network of /8 to /24, such as \"192.168.65.0/24\""
	case k.Type == Subnet6:
		return "an IPv6 network of /32 to /64, such as \"fdc4:f303:9324::/64\""
	case k.Type == Ports:
		return "a range of ports of 1024 to 65535, such as \"49000-49900\""
	case k.Type == Socket:
		return "the absolute path of a socket, none, or \"\" for SSH_AUTH_SOCK and the usual places"
	case k.Type == Address:
		return "an address and port on loopback, such as \"127.0.0.1:5399\", or \"\""
	case k.Type == Options:
		return "a JSON object of dockerd's options"
	}
	return "a string"
}

// describe names what was found instead.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return fmt.Sprint(v)
	case string:
		return fmt.Sprintf("%q", v)
	case json.Number:
		return "the number " + v.String()
	case []node:
		return "a list"
	}
	return "an object"
}
