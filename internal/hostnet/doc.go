// Package hostnet is the machine's side of `--network host`: it finds the ports
// that containers open in the machine's own network, so that the daemon opens
// them on the host, and leads what they send to 127.0.0.1 and ::1 to the host's
// own services there. Package agent runs it in the machine; of it, package daemon
// uses Sockets, which looks at the network of whoever asks, and Dial.
//
// Theory of operation. The kernel tells nobody without privileges that a socket
// begins to listen, so the sockets are counted: an inet_diag dump (sock_diag(7))
// of those that listen, every Period. That costs little, but not nothing, so it
// happens only while the engine has containers on the host network, which its
// events tell.
//
//	state    begins with                     does
//	unknown  start of the agent              counts: containers may be older than it
//	used     a container on the host network, counts every Period
//	         or one that is about to start
//	unused   the engine says for a while     waits for the engine's next event
//	         that none is
//
// A socket is a container's when a process holds it that shares the machine's
// network and not its mounts: dockerd, containerd, the agent and the shims have
// the machine's own. That needs no control groups, which an ordinary user may not
// have. A socket is looked up once, when it is first seen.
//
// In the other direction nothing listens on the ports of the host's services: a
// container's bind would fail. Each of them has a socket on some free port of the
// machine's loopback, and one table of nftables leads there what local programs
// send to the service's port. A port is left out as long as somebody in the
// machine waits on it himself:
//
//	table inet portolan-hostnet {
//	  map tcp4 { type inet_service : inet_service; }     # tcp6, udp4, udp6 alike
//	  chain output { type nat hook output priority -150;
//	    oifname lo ip daddr 127.0.0.1 meta l4proto tcp redirect to :th dport map @tcp4
//	  }
//	}
//
// Containers with a network of their own have a loopback of their own, which none
// of this touches.
package hostnet
