package router

import (
	"fmt"
	"os"
	"path/filepath"
)

// sysctl is one setting below /proc/sys/net (kernel, ip-sysctl.rst).
type sysctl struct{ name, value string }

// namespaceSysctls are set before there are interfaces; they take "default" from here.
func namespaceSysctls() []sysctl {
	return []sysctl{
		{"ipv4/ip_forward", "1"}, // first: it resets others
		{"ipv6/conf/all/disable_ipv6", "0"},
		{"ipv6/conf/default/disable_ipv6", "0"},
		{"ipv6/conf/all/forwarding", "1"},
		{"ipv6/conf/default/forwarding", "1"},
		// Packets of both interfaces have any source, and "all" counts too.
		{"ipv4/conf/all/rp_filter", "0"},
		{"ipv4/conf/default/rp_filter", "0"},
		// Believe nobody about routes.
		{"ipv4/conf/all/accept_redirects", "0"},
		{"ipv4/conf/default/accept_redirects", "0"},
		{"ipv4/conf/all/send_redirects", "0"},
		{"ipv4/conf/default/send_redirects", "0"},
		{"ipv4/conf/all/accept_source_route", "0"},
		{"ipv4/conf/default/accept_source_route", "0"},
		{"ipv6/conf/all/accept_ra", "0"},
		{"ipv6/conf/default/accept_ra", "0"},
		{"ipv6/conf/all/accept_redirects", "0"},
		{"ipv6/conf/default/accept_redirects", "0"},
		{"ipv6/conf/default/autoconf", "0"},
		// The daemon binds reply sockets to any port without a capability.
		{"ipv4/ip_unprivileged_port_start", "0"},
		// Many dials have the same source and destination address; nothing else
		// lives here that could want a port.
		{"ipv4/ip_local_port_range", "1024 65535"},
		{"ipv4/tcp_tw_reuse", "1"},
		{"ipv4/tcp_max_syn_backlog", "4096"},
		// The SYN of a reused port would find the old connection in TIME_WAIT
		// before it is routed, and ip_forward drops what has a socket.
		{"ipv4/tcp_early_demux", "0"},
		// The link is memory, nothing on it needs to be paced. A host with BBR
		// would set a timer for each segment, at half the speed. reno is always
		// there and free for everybody to use.
		{"ipv4/tcp_congestion_control", "reno"},
	}
}

// interfaceSysctls are set once e0 and slow0 exist.
func interfaceSysctls() []sysctl {
	return []sysctl{
		{"ipv4/conf/e0/rp_filter", "0"},
		{"ipv4/conf/slow0/rp_filter", "0"},
		// ICMP errors that the daemon writes have the router's own address.
		{"ipv4/conf/slow0/accept_local", "1"},
		// slow0 needs no link-local address, and so sends nothing by itself.
		{"ipv6/conf/slow0/addr_gen_mode", "1"},
		// Learn neighbours only by asking; answer for own addresses only.
		{"ipv4/conf/e0/arp_accept", "0"},
		{"ipv4/conf/e0/arp_ignore", "1"},
		{"ipv4/conf/e0/arp_announce", "2"},
		{"ipv4/conf/e0/drop_gratuitous_arp", "1"},
		{"ipv6/conf/e0/drop_unsolicited_na", "1"},
		{"ipv6/conf/e0/accept_ra", "0"},
		{"ipv6/conf/e0/accept_redirects", "0"},
		{"ipv4/conf/e0/accept_redirects", "0"},
		{"ipv4/conf/e0/send_redirects", "0"},
		{"ipv6/conf/e0/proxy_ndp", "1"}, // see proxyOutside
	}
}

// setSysctls writes settings of this process's network namespace.
func setSysctls(settings []sysctl) error {
	for _, s := range settings {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", s.name), []byte(s.value), 0); err != nil {
			return fmt.Errorf("set sysctl net/%s to %s: %w", s.name, s.value, err)
		}
	}
	return nil
}
