// Package router is the datapath of machines that live in a network namespace
// beside the host's (package datapath is the seam that it implements). It only
// works on Linux; elsewhere it is empty.
//
// # Theory of operation
//
// The router is a network namespace between machine and daemon and the
// machine's default gateway. It forwards nothing, unless the host is connected
// (connect_linux.go). Two processes share it:
//
//	helper   started in that namespace with CAP_NET_ADMIN. Setup builds the
//	         link, the TUN slow0, rules and listeners; Serve hands descriptors
//	         to the daemon. It keeps nothing but the namespace and descriptors.
//	daemon   without any capability, in the host's namespace. Attach fetches the
//	         descriptors, Run carries flows with them. After a crash the next
//	         daemon attaches to the same helper and goes on. When the helper dies,
//	         the daemon has its Estate, with which another helper resumes.
//
// A connection out of the machine:
//
//	machine                router (kernel)                  daemon
//	SYN ---------------> mark 2, routed into slow0 ------> held; Handler.OpenTCP
//	                     TPROXY to 127.0.0.1:15001 <------ same SYN, written back
//	SYN-ACK <----------- kernel handshake
//	ACK ---------------> socket match, mark 1 -----------> Accept; Endpoint.Serve
//
// If OpenTCP fails the daemon writes a reset or an ICMP error into slow0
// instead, or nothing. UDP goes to TPROXY sockets at once. ICMP echo and every
// other protocol go to slow0. See held_linux.go for the states of a held SYN,
// rules_linux.go for the packet filter, handover_linux.go for the protocol
// between helper and daemon.
//
// cmd/portolan imports both halves; nothing else should.
package router
