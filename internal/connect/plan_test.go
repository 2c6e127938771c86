package connect

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name    string
		network string
		host    string // PREFIX on INTERFACE, or PREFIX on INTERFACE/table N, or nothing
		refused string // a part of why; "" when it is used
	}{
		{"alone", "172.17.0.0/16", "", ""},
		{"beside", "172.17.0.0/16", "172.18.0.0/16 on br0", ""},
		{"the same", "172.17.0.0/16", "172.17.0.0/16 on docker0", "172.17.0.0/16 on docker0"},
		{"by a table of rules' own", "172.17.0.0/16", "172.17.0.0/16 on tun0/table 100", "172.17.0.0/16 on tun0 in table 100"},
		{"a part of it", "172.17.0.0/16", "172.17.5.0/24 on tun0", "172.17.5.0/24 on tun0"},
		{"inside a wider one", "172.17.0.0/16", "172.16.0.0/12 on tun0", "172.16.0.0/12 on tun0"},
		{"a whole class", "10.5.0.0/16", "10.0.0.0/8 on tun0", "10.0.0.0/8 on tun0"},
		{"half of everything, a VPN's default route", "10.5.0.0/16", "0.0.0.0/1 on tun0", ""},
		{"the same in IPv6", "fd00:1::/64", "2000::/3 on tun0", ""},
		{"all of ULA", "fd00:1::/64", "fc00::/7 on tun0", "fc00::/7 on tun0"},
		{"another family", "fd00:1::/64", "172.17.0.0/16 on docker0", ""},
		{"shared address space", "100.64.1.0/24", "", ""},
		{"an address of the internet", "8.8.8.0/24", "", "no private network"},
		{"wider than private", "172.0.0.0/8", "", "no private network"},
		{"IPv6 of the internet", "2001:db8::/64", "", "no private network"},
		{"everything", "0.0.0.0/0", "", "no private network"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var host []Route
			if prefix, name, found := strings.Cut(c.host, " on "); found {
				name, table, _ := strings.Cut(name, "/table ")
				number, _ := strconv.Atoi(table) // 0 for none
				host = []Route{{Prefix: netip.MustParsePrefix(prefix), Interface: name, Table: number}}
			}
			network := netip.MustParsePrefix(c.network)
			use, refused := Plan([]netip.Prefix{network}, host)
			switch {
			case c.refused == "" && (!slices.Equal(use, []netip.Prefix{network}) || len(refused) != 0):
				t.Errorf("Plan = %v, %v, want it used", use, refused)
			case c.refused != "" && (len(use) != 0 || len(refused) != 1 || !strings.Contains(refused[0].String(), c.refused)):
				t.Errorf("Plan = %v, %v, want it refused: %s", use, refused, c.refused)
			}
		})
	}
}
