package system

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const someHosts = `# the usual
127.0.0.1	localhost localhost.localdomain
127.0.1.1	Laptop.example laptop   # Debian
::1		ip6-localhost ip6-loopback
192.0.2.10 nas.example. nas
2001:db8::10 nas.example
192.0.2.11 nas.example
192.0.2.10 files.example
192.0.2.10 nas
0.0.0.0 ads.example tracker.example
fe80::1%lo0 zoned
::ffff:192.0.2.12 mapped
not-an-address name
192.0.2.13
192.0.2.14 #nothing
	192.0.2.15 indented .`

func TestParseHostsAddrs(t *testing.T) {
	h := ParseHosts([]byte(strings.ReplaceAll(someHosts, "\n", "\r\n")))
	for _, c := range []struct{ name, want string }{
		{"localhost", "127.0.0.1"},
		{"laptop.example", "127.0.1.1"},
		{"LAPTOP", "127.0.1.1"},
		{"nas.example", "192.0.2.10 2001:db8::10 192.0.2.11"},
		{"nas.example.", "192.0.2.10 2001:db8::10 192.0.2.11"},
		{"nas", "192.0.2.10"},
		{"tracker.example", "0.0.0.0"},
		{"mapped", "192.0.2.12"},
		{"indented", "192.0.2.15"},
		{"zoned", ""},
		{"name", ""},
		{"", ""},
		{"example", ""},
	} {
		if got := join(h.Addrs(c.name)); got != c.want {
			t.Errorf("Addrs(%q) = %s, want %s", c.name, got, c.want)
		}
	}
}

func TestParseHostsNames(t *testing.T) {
	h := ParseHosts([]byte(someHosts))
	for _, c := range []struct{ addr, want string }{
		{"192.0.2.10", "nas.example files.example nas"},
		{"::ffff:192.0.2.10", "nas.example files.example nas"},
		{"2001:db8::10", "nas.example"},
		{"127.0.1.1", "laptop.example"},
		{"0.0.0.0", ""},
		{"192.0.2.13", ""},
		{"192.0.2.99", ""},
	} {
		if got := strings.Join(h.Names(netip.MustParseAddr(c.addr)), " "); got != c.want {
			t.Errorf("Names(%s) = %q, want %q", c.addr, got, c.want)
		}
	}
}

func TestHostsLines(t *testing.T) {
	h := ParseHosts([]byte("# comment\n192.0.2.1 a b # c\n\n192.0.2.2 A\n192.0.2.1 a\nnonsense\n::1 d a"))
	for name, want := range map[string]string{"a.": "[2 4 7]", "b": "[2]", "d": "[7]", "c": "[]", "nonsense": "[]"} {
		if got := fmt.Sprint(h.Lines(name)); got != want {
			t.Errorf("Lines(%q) = %s, want %s", name, got, want)
		}
	}
}

func TestZeroHostsKnowsNothing(t *testing.T) {
	var h Hosts
	if h.Addrs("localhost") != nil || h.Names(netip.IPv6Loopback()) != nil {
		t.Error("the zero Hosts knows a name")
	}
}

func FuzzParseHosts(f *testing.F) {
	f.Add([]byte(someHosts), "nas")
	f.Add([]byte("::1 a.. . #\n1.1.1.1\x00 b"), "a.")
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		h := ParseHosts(text)
		for _, addr := range h.Addrs(name) {
			if !addr.IsValid() || addr.Zone() != "" || addr.Is4In6() {
				t.Errorf("Addrs(%q) has %v", name, addr)
			}
			for _, back := range h.Names(addr) {
				if !slices.Contains(h.Addrs(back), addr) {
					t.Errorf("Names(%v) has %q, which has not that address", addr, back)
				}
			}
		}
	})
}

func join(addrs []netip.Addr) string {
	var out []string
	for _, addr := range addrs {
		out = append(out, addr.String())
	}
	return strings.Join(out, " ")
}
