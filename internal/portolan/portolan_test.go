package portolan

import (
	"encoding/json"
	"net/netip"
	"testing"
)

func TestDefaultLinkPlaces(t *testing.T) {
	l := DefaultLink()
	if err := l.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		got    Pair
		v4, v6 string
	}{
		{"gateway", l.Gateway(), "192.168.65.1", "fdc4:f303:9324::1"},
		{"machine", l.Machine(), "192.168.65.3", "fdc4:f303:9324::3"},
		{"dns", l.DNS(), "192.168.65.7", "fdc4:f303:9324::7"},
		{"host", l.Host(), "192.168.65.254", "fdc4:f303:9324::254"},
	} {
		if c.got.V4.String() != c.v4 || c.got.V6.String() != c.v6 {
			t.Errorf("%s = %v, want %s %s", c.name, c.got, c.v4, c.v6)
		}
		if !l.Contains(c.got.V4) || !l.Contains(c.got.V6) {
			t.Errorf("%s lies outside the link", c.name)
		}
	}
}

func TestLinkValidateRefuses(t *testing.T) {
	good := DefaultLink()
	for _, l := range []Link{
		{},
		{V4: netip.MustParsePrefix("192.168.65.0/25"), V6: good.V6},
		{V4: netip.MustParsePrefix("192.168.65.4/24"), V6: good.V6},
		{V4: good.V4, V6: netip.MustParsePrefix("fd00::/96")},
		{V4: good.V6, V6: good.V4},
	} {
		if l.Validate() == nil {
			t.Errorf("Validate(%v) accepts it", l)
		}
	}
}

func TestBindingJSON(t *testing.T) {
	want := Binding{
		Proto:     UDP,
		Host:      netip.MustParseAddrPort("[::]:53"),
		Container: netip.MustParseAddrPort("172.17.0.2:53"),
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Binding
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("round trip through %s = %v, want %v", text, got, want)
	}
	if err := json.Unmarshal([]byte(`{"proto":"sctp"}`), &got); err == nil {
		t.Error("sctp is accepted")
	}
}

func TestSuccessor(t *testing.T) {
	first := DefaultLink()
	second := Link{V4: netip.MustParsePrefix("10.7.0.0/16"), V6: netip.MustParsePrefix("fd07::/64")}
	now := Link{V4: netip.MustParsePrefix("192.168.66.0/24"), V6: second.V6}
	for addr, want := range map[string]string{
		"192.168.65.1": "192.168.66.1", "192.168.65.7": "192.168.66.7", "10.7.0.254": "192.168.66.254",
		"fdc4:f303:9324::254": "fd07::254", "fd07::7": "fd07::7",
		"192.168.65.3": "192.168.65.3", "192.168.65.253": "192.168.65.253", "192.168.65.99": "192.168.65.99",
		"192.168.66.7": "192.168.66.7", "198.51.100.1": "198.51.100.1",
	} {
		if got := now.Successor(netip.MustParseAddr(addr), []Link{first, second}); got.String() != want {
			t.Errorf("Successor(%s) = %s, want %s", addr, got, want)
		}
	}
}
