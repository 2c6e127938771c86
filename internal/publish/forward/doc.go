// Package forward carries what arrives at one listening socket to one
// destination: TCP connections one by one, UDP datagrams in a session for each
// client. It does not choose addresses, open listeners or move TCP bytes itself;
// its callers hand in the socket, the dial function and the relay.
//
// Package publish uses it for the host's listeners, package shim for the sockets
// that the engine bound inside the machine.
package forward
