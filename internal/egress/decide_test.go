package egress

import (
	"net/netip"
	"testing"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

func TestDecide(t *testing.T) {
	const tcp, udp, icmp = portolan.TCP, portolan.UDP, portolan.ICMP
	cases := []struct {
		proto portolan.Proto
		dst   string
		want  verdict
		shown datapath.Refusal // for the verdicts that refuse
	}{
		{tcp, "198.51.100.1:80", direct, 0},
		{udp, "198.51.100.1:53", direct, 0},
		{icmp, "198.51.100.1:7", direct, 0},
		{tcp, "[2001:db8::1]:80", direct, 0},
		{tcp, "192.168.1.7:80", direct, 0},
		{tcp, "192.168.64.255:80", direct, 0},
		{tcp, "192.168.66.0:80", direct, 0},
		{tcp, "169.254.169.254:80", direct, 0}, // a cloud's metadata service
		{tcp, "172.17.0.9:80", direct, 0},      // sources and networks are the datapath's business
		{tcp, "[fd00::1]:80", direct, 0},
		{tcp, "[64:ff9b::7f00:1]:80", direct, 0},

		{tcp, "192.168.65.254:80", host, 0},
		{udp, "192.168.65.254:53", host, 0},
		{tcp, "[fdc4:f303:9324::254]:80", host, 0},
		{icmp, "192.168.65.254:7", host, 0},

		{tcp, "192.168.65.7:53", resolver, 0},
		{udp, "192.168.65.7:53", resolver, 0},
		{udp, "[fdc4:f303:9324::7]:53", resolver, 0},
		{tcp, "192.168.65.7:80", gateway, datapath.Refused},
		{udp, "192.168.65.7:5353", gateway, datapath.Refused},
		{icmp, "192.168.65.7:53", gateway, datapath.Refused},
		{tcp, "192.168.65.1:53", gateway, datapath.Refused},
		{udp, "192.168.65.1:53", gateway, datapath.Refused},
		{tcp, "192.168.65.1:3128", proxied, 0},
		{tcp, "[fdc4:f303:9324::1]:3128", proxied, 0},
		{udp, "192.168.65.1:3128", gateway, datapath.Refused},
		{tcp, "192.168.65.7:3128", gateway, datapath.Refused},
		{tcp, "[fdc4:f303:9324::1]:22", gateway, datapath.Refused},

		{tcp, "192.168.65.3:2375", refuse, datapath.HostUnreachable},
		{tcp, "192.168.65.0:80", refuse, datapath.HostUnreachable},
		{tcp, "192.168.65.99:80", refuse, datapath.HostUnreachable},
		{tcp, "[fdc4:f303:9324::3]:80", refuse, datapath.HostUnreachable},
		{tcp, "[fdc4:f303:9324::fe]:80", refuse, datapath.HostUnreachable},
		{tcp, "[fe80::1]:80", refuse, datapath.HostUnreachable},

		{tcp, "127.0.0.1:80", refuse, datapath.NetUnreachable},
		{tcp, "127.255.0.1:80", refuse, datapath.NetUnreachable},
		{udp, "[::1]:80", refuse, datapath.NetUnreachable},
		{tcp, "0.0.0.0:80", refuse, datapath.NetUnreachable},
		{tcp, "0.1.2.3:80", refuse, datapath.NetUnreachable},
		{tcp, "[::]:80", refuse, datapath.NetUnreachable},
		{tcp, "[::ffff:127.0.0.1]:80", refuse, datapath.NetUnreachable},
		{tcp, "[::ffff:198.51.100.1]:80", refuse, datapath.NetUnreachable},
		{tcp, "[::127.0.0.1]:80", refuse, datapath.NetUnreachable},
		{tcp, "240.0.0.1:80", refuse, datapath.NetUnreachable},
		{tcp, "255.255.255.254:80", refuse, datapath.NetUnreachable},

		{udp, "224.0.0.251:5353", drop, datapath.NetUnreachable},
		{tcp, "239.1.2.3:80", drop, datapath.NetUnreachable},
		{udp, "[ff02::fb]:5353", drop, datapath.NetUnreachable},
		{udp, "255.255.255.255:67", drop, datapath.NetUnreachable},
		{udp, "192.168.65.255:137", drop, datapath.NetUnreachable},
	}
	for _, c := range cases {
		flow := portolan.Flow{
			Proto: c.proto,
			Src:   netip.MustParseAddrPort("172.17.0.2:40000"),
			Dst:   netip.MustParseAddrPort(c.dst),
		}
		got, err := decide(portolan.DefaultLink(), flow)
		if got != c.want {
			t.Errorf("%s: verdict %d, want %d", flow, got, c.want)
		}
		if refuses := c.want >= gateway; refuses != (err != nil) || refuses && datapath.Classify(err) != c.shown {
			t.Errorf("%s: %v is shown as %d, want %d", flow, err, datapath.Classify(err), c.shown)
		}
	}
}

func TestDecideWiderLink(t *testing.T) {
	link := portolan.Link{V4: netip.MustParsePrefix("10.8.0.0/22"), V6: portolan.DefaultLink().V6}
	for dst, want := range map[string]verdict{
		"10.8.0.254:1": host, "10.8.0.255:1": refuse, "10.8.3.255:1": drop, "10.8.4.0:1": direct, "192.168.65.254:1": direct,
	} {
		flow := portolan.Flow{Proto: portolan.UDP, Dst: netip.MustParseAddrPort(dst)}
		if got, _ := decide(link, flow); got != want {
			t.Errorf("%s: verdict %d, want %d", dst, got, want)
		}
	}
}
