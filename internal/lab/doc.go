// Package lab is a test internet made of network namespaces, for tests and
// benchmarks that want to see Portolan, or a part of it, do real work: a host
// that runs the program under test, a neighbour on the same LAN, a gateway
// that forwards and refuses, and servers behind it. It needs Linux and root,
// and changes nothing outside its own namespaces. Only tests may import it.
//
//	 neighbour            host                          internet
//	+-----------+      +-----------+                   +-------------------------+
//	| lan0      |      | lan0      |                   | wan0                    |
//	| .20 ::20  |      | .10 ::10  |                   | .1 ::1  web and echo    |
//	+-----+-----+      | lo        |                   | .2 ::2  DNS             |
//	      |            | 203.0.113.77, 2001:db8:3::77  | .3 ::3  second DNS      |
//	      |            +-----+-----+                   | .4 ::4  nothing listens |
//	      |                  |                         +------------+------------+
//	  ----+---- LAN ---------+----                                  |
//	     192.0.2.0/24    |                                          |
//	     2001:db8:1::/64 |       gateway                            |
//	                +----+---------------------------+              |
//	                | lan0 .1 ::1    wan0 .254 ::254 |-- 198.51.100.0/24, 2001:db8:2::/64
//	                +--------------------------------+
//
// The gateway translates no address, so a server sees who connects. It refuses
// four addresses behind it, each in IPv4 and IPv6 alike (ICMP as RFC 792 and
// RFC 4443 name it):
//
//	198.51.100.96  2001:db8:2::96   net unreachable, no route
//	198.51.100.97  2001:db8:2::97   administratively prohibited
//	198.51.100.98  2001:db8:2::98   host unreachable, address unreachable
//	198.51.100.99  2001:db8:2::99   black hole: no answer at all
//
// The LAN and the gateway's uplink are two bridges in a namespace of their own,
// the switch, so that each node's link can be cut or slowed at its port (Link)
// without a trace in the node.
//
// # Theory of operation
//
// Namespaces have no names and no process that holds them: the lab keeps open
// descriptors, so they go with the test process however it ends. The host also
// is a mount namespace: its /etc/resolv.conf and /etc/hosts are files of the
// lab, its /sys shows its own interfaces, with all that was mounted below /sys
// (cgroup v1 or v2) put back. Sockets of the test itself are made on a thread
// that is in the node's namespace for that moment (Node.Do), programs are
// started through nsenter (Node.Command).
//
// Programs that outlive the test process would keep namespaces. A small shell,
// the watchdog, waits for the end of a pipe that the test process holds, then
// kills whatever carries the lab's mark (the directory's name, in a process's
// environment or mount table) and removes the directory. An orderly end takes
// the same way, after it has reported such programs as errors of the test.
//
// Several labs may run at once, in one process or in many; all use the same
// addresses.
package lab
