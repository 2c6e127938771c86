// Package socks is a SOCKS5 server (RFC 1928) by which programs of the host
// reach containers: addresses and names, TCP and UDP. It listens where it is
// told to, asks for no login, and leads nowhere but to what Config.Allowed
// names. The daemon wires it.
//
// # Theory of operation
//
//	command         what happens
//	CONNECT         the name is looked up, its addresses dialled in order, and
//	                relay.TCP carries the stream
//	UDP ASSOCIATE   a UDP socket beside the listener takes the client's
//	                datagrams; each destination gets a socket of its own (udp.go)
//	BIND            refused: command not supported
//
//	what was wrong                       reply
//	not an address or name of Allowed    2, not allowed by the ruleset
//	unknown name, no answer              4, host unreachable
//	refused by the container             5, connection refused
//	no route, wrong family               3, network unreachable
//	address type                         8
//
// A client that breaks the protocol is cut off.
package socks
