package system

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

func defaults(change func(*Resolver)) Resolver {
	r := Resolver{NDots: 1}
	change(&r)
	return r
}

func servers(list ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, text := range list {
		out = append(out, netip.MustParseAddrPort(text))
	}
	return out
}

func TestParseResolver(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       Resolver
	}{
		{"empty", "", defaults(func(*Resolver) {})},
		{"order, repetition, zone, mapped", "nameserver 192.0.2.2\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver fe80::1%eth0\nnameserver ::ffff:192.0.2.3\n",
			defaults(func(r *Resolver) {
				r.Servers = servers("192.0.2.2:53", "192.0.2.1:53", "[fe80::1%eth0]:53", "192.0.2.3:53")
			})},
		{"more than glibc's three", "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4",
			defaults(func(r *Resolver) {
				r.Servers = servers("192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53", "192.0.2.4:53")
			})},
		{"ports", "nameserver [127.0.0.1]:5353\nnameserver 127.0.0.1:54\nnameserver [::1]:5354\nnameserver [::2]",
			defaults(func(r *Resolver) {
				r.Servers = servers("127.0.0.1:5353", "127.0.0.1:54", "[::1]:5354", "[::2]:53")
			})},
		{"unspecified is local", "nameserver 0.0.0.0\nnameserver ::",
			defaults(func(r *Resolver) { r.Servers = servers("127.0.0.1:53", "[::1]:53") })},
		{"nonsense servers", "nameserver\nnameserver dns.example\nnameserver 256.1.1.1\nnameserver [::1]:0\nnameserver [::1]:x\nnameserver [::1]5\nnameserver [::1\nnameserver 224.0.0.251\nnameserver 1.2.3.4:0",
			defaults(func(*Resolver) {})},
		{"comments and spaces", "# nameserver 192.0.2.1\n; nameserver 192.0.2.2\n  \tnameserver\t192.0.2.3  # home\r\n",
			defaults(func(r *Resolver) { r.Servers = servers("192.0.2.3:53") })},
		{"last of search and domain", "search a.example b.example\ndomain C.Example.\n",
			defaults(func(r *Resolver) { r.Search = []string{"c.example"} })},
		{"search of the root", "search .\n", defaults(func(r *Resolver) { r.Search = []string{"."} })},
		{"options", "options ndots:3 timeout:1 attempts:4 rotate use-vc edns0 trust-ad no-aaaa unknown:7",
			Resolver{NDots: 3, Rotate: true, UseVC: true, NoAAAA: true}},
		{"ndots clamped", "options ndots:99", Resolver{NDots: 15}},
		{"ndots below zero", "options ndots:-1", Resolver{}},
		{"options without a number", "options ndots: timeout:x attempts", defaults(func(*Resolver) {})},
		{"unknown keywords, no final newline", "sortlist 1.2.3.4\nlookup file bind\nnameserver 192.0.2.1",
			defaults(func(r *Resolver) { r.Servers = servers("192.0.2.1:53") })},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ParseResolver([]byte(c.text))
			got.lines = nil
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("ParseResolver(%q)\n got %+v\nwant %+v", c.text, got, c.want)
			}
		})
	}
}

func TestResolverLines(t *testing.T) {
	r := ParseResolver([]byte("# home\nnameserver 192.0.2.1\n\nsearch a\nnameserver nonsense\nnameserver ::1\nnameserver 192.0.2.1"))
	for server, want := range map[string]int{"192.0.2.1:53": 2, "[::1]:53": 6, "192.0.2.9:53": 0} {
		if got := r.Line(netip.MustParseAddrPort(server)); got != want {
			t.Errorf("Line(%s) = %d, want %d", server, got, want)
		}
	}
}

func FuzzParseResolver(f *testing.F) {
	f.Add([]byte("nameserver [::1]:53\nsearch a. .\noptions ndots:1 timeout:2"))
	f.Add([]byte("nameserver fe80::1%lo\nnameserver ]\nnameserver ["))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := ParseResolver(text)
		for i, s := range r.Servers {
			if !s.IsValid() || s.Port() == 0 || s.Addr().IsUnspecified() || s.Addr().Is4In6() {
				t.Errorf("server %v can't be asked", s)
			}
			if slices.Contains(r.Servers[:i], s) {
				t.Errorf("server %v comes twice", s)
			}
		}
		if r.NDots < 0 || r.NDots > 15 {
			t.Errorf("options beyond limits: %+v", r)
		}
		if slices.Contains(r.Search, "") {
			t.Errorf("empty search domain: %q", r.Search)
		}
	})
}
