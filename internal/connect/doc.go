// Package connect is how programs of the host reach containers by the
// containers' own addresses: `portolan connect` leads the host's routes into the
// machine, `portolan shell` takes one program there. Nothing else of Portolan
// touches the host's network, and this only while a user with the privilege asks
// for it. cmd/portolan and the daemon, which shows what is connected, import it.
//
// # Theory of operation
//
// The connector is a process of root's on the host. It asks the router helper
// for a connection, makes a veth between the host and the router's namespace
// (package router has the rules there), gives the host's end an address and
// neighbours, and then keeps the host's routes to the machine's networks in
// step with two sources: the machine's addresses, and the host's other routes,
// to which everything that overlaps is left.
//
//	start ends by                what removes the interface
//	portolan disconnect, down    the helper, before it answers
//	connector killed             the helper: its connection closed
//	helper killed                the connector; then it connects to the next helper
//	both killed                  the next helper, before it serves
//	everything killed            the kernel, with the router's namespace
//
// The routes, the address and the sysctls of an interface go with it, so that
// nothing has to be remembered and put back. The daemon has no part in it.
//
// A shell is one program, no process of ours: this program enters the machine's
// network namespace, puts files of its own over the resolver's, and executes
// the command in its place.
package connect
