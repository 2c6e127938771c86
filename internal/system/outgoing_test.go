package system

import (
	"encoding/json"
	"testing"
)

func TestParsePortRange(t *testing.T) {
	for text, want := range map[string]PortRange{
		"49000-49900": {49000, 49900}, "1024-65535": {1024, 65535}, "5000-5000": {5000, 5000},
	} {
		got, err := ParsePortRange(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("ParsePortRange(%q) = %v, %v", text, got, err)
		}
		var again PortRange
		encoded, err := json.Marshal(got)
		if err == nil {
			err = json.Unmarshal(encoded, &again)
		}
		if err != nil || again != want {
			t.Errorf("%q becomes %s and %v (%v)", text, encoded, again, err)
		}
	}
	for _, text := range []string{"", "-", "5000", "5000-", "-5000", "5001-5000", "80-5000", "5000-70000", "5000-6000-7000", "a-b", " 5000-6000"} {
		if got, err := ParsePortRange(text); err == nil {
			t.Errorf("ParsePortRange(%q) = %v", text, got)
		}
	}
}

func TestPortRangeHoldsItsEnds(t *testing.T) {
	r := PortRange{10, 12}
	for port, want := range map[uint16]bool{9: false, 10: true, 12: true, 13: false} {
		if r.Contains(port) != want {
			t.Errorf("%v contains %d is %v", r, port, !want)
		}
	}
	if r.Size() != 3 || (PortRange{}).Size() != 0 || (PortRange{}).Contains(0) {
		t.Error("sizes are wrong")
	}
}

func TestOutgoingPorts(t *testing.T) {
	kernel := PortRange{100, 199}
	for _, c := range []struct {
		avoid PortRange
		want  []PortRange // each of them is to come
	}{
		{PortRange{}, []PortRange{{}}},
		{PortRange{300, 400}, []PortRange{{}}},
		{PortRange{1, 99}, []PortRange{{}}},
		{PortRange{50, 250}, []PortRange{{}}}, // better a port of the range than none
		{PortRange{100, 109}, []PortRange{{110, 199}}},
		{PortRange{150, 250}, []PortRange{{100, 149}}},
		{PortRange{140, 159}, []PortRange{{100, 139}, {160, 199}}},
	} {
		o := &Outgoing{kernel: kernel, avoid: func() PortRange { return c.avoid }}
		seen := map[PortRange]int{}
		for range 200 {
			seen[o.choice()]++
		}
		if len(seen) != len(c.want) {
			t.Errorf("avoiding %v: %v, want %v", c.avoid, seen, c.want)
		}
		for _, want := range c.want {
			if seen[want] == 0 {
				t.Errorf("avoiding %v: %v, want %v in it", c.avoid, seen, want)
			}
		}
	}
	var none *Outgoing
	if got := none.choice(); got != (PortRange{}) {
		t.Errorf("without an Outgoing the choice is %v", got)
	}
}
