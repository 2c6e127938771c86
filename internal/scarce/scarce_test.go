package scarce

import (
	"net/netip"
	"testing"
	"time"
)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func newNetworks(texts ...string) *Networks {
	n := &Networks{}
	var known []netip.Prefix
	for _, text := range texts {
		known = append(known, netip.MustParsePrefix(text))
	}
	n.Set(known)
	return n
}

func TestNetworks(t *testing.T) {
	n := newNetworks("172.17.0.0/16", "172.17.5.0/24", "fd00:1::/64")
	for source, want := range map[string]string{
		"172.17.0.2": "172.17.0.0/16", "172.17.5.2": "172.17.5.0/24", "fd00:1::2": "fd00:1::/64",
		"172.18.0.2": "::/0", "fd00:2::2": "::/0",
	} {
		if got := n.Of(addr(source)); got.String() != want {
			t.Errorf("%s is in %s, want %s", source, got, want)
		}
		if got := (*Networks)(nil).Of(addr(source)); got.Bits() != 0 {
			t.Errorf("without networks %s is in %s", source, got)
		}
	}
}

// take enters n times and returns what was given.
func take(l *Limit, source string, n int) []Place {
	var places []Place
	for range n {
		if p, ok := l.Enter(addr(source)); ok {
			places = append(places, p)
		}
	}
	return places
}

func TestLimit(t *testing.T) {
	networks := newNetworks("172.17.0.0/16", "172.18.0.0/16")
	bounds := Bounds{All: 10, Network: 7, Source: 4}
	l := NewVaryingLimit(func() Bounds { return bounds }, networks)
	var all []Place
	for _, step := range []struct {
		source string
		want   int
	}{
		{"172.17.0.2", 4}, // its own bound
		{"172.17.0.3", 3}, // its network's, whatever address it uses
		{"172.17.0.4", 0},
		{"172.18.0.2", 3}, // that of all
		{"172.18.0.3", 0},
	} {
		got := take(l, step.source, 10)
		if len(got) != step.want {
			t.Errorf("%s gets %d places, want %d", step.source, len(got), step.want)
		}
		all = append(all, got...)
	}
	for source, want := range map[string]bool{"172.17.0.2": true, "172.17.0.9": true, "172.18.0.2": false} {
		if l.Crowded(addr(source)) != want {
			t.Errorf("%s is crowded: %v, want %v", source, !want, want)
		}
	}
	bounds.All = 11
	all = append(all, take(l, "172.18.0.2", 10)...)
	if l.Held() != 11 {
		t.Errorf("%d places are held after one more was added, want 11", l.Held())
	}
	networks.Set(nil) // a place belongs to where it was taken
	for _, p := range all {
		l.Leave(p)
	}
	if l.Held() != 0 || len(l.network) != 0 || len(l.source) != 0 {
		t.Errorf("after all have left: %d places, networks %v, sources %v", l.Held(), l.network, l.source)
	}
}

func TestNoBound(t *testing.T) {
	if got := take(NewLimit(Bounds{}, nil), "172.17.0.2", 1000); len(got) != 1000 {
		t.Errorf("%d places, want 1000", len(got))
	}
}

func TestSeldom(t *testing.T) {
	var s Seldom
	now := time.Unix(1000, 0)
	for after, want := range []bool{true, false, false} {
		if s.at(now.Add(time.Duration(after)*time.Second)) != want {
			t.Errorf("after %d s: want %v", after, want)
		}
	}
	if !s.at(now.Add(seldom)) {
		t.Error("silent after a minute")
	}
}

func TestBoundsOfDescriptors(t *testing.T) {
	for count, want := range map[uint64][2]Bounds{
		20_000: {{All: 9744, Network: 6496, Source: 4872}, {All: 15_000, Source: 12_500}},
		500:    {{All: 125, Network: 82, Source: 62}, {All: 375, Source: 310}},
		0:      {{All: 1, Network: 1, Source: 1}, {All: 1, Source: 1}},
	} {
		if got := [2]Bounds{connectionBounds(count), sessionBounds(count)}; got != want {
			t.Errorf("%d descriptors: %+v, want %+v", count, got, want)
		}
	}
	connections := NewConnections(newNetworks("172.17.0.0/16"))
	all := connectionBounds(descriptors()).All
	given := len(take(connections, "203.0.113.1", all)) + len(take(connections, "2001:db8::1", all))
	if want := all / 3 * 2; given != want {
		t.Errorf("a client with both families gets %d of %d connections, want %d", given, all, want)
	}
	if len(take(connections, "172.17.0.2", all)) == 0 {
		t.Error("nothing is left for containers")
	}
}
