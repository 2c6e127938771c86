// Package server is how the machine uses proxies: the forward proxy at
// http.docker.internal:3128, and the transparent way for ports that go through a
// proxy unasked. It decides nothing (package proxy does), and moves no bytes of
// a stream that stands (package relay does). It implements egress.Proxies; the
// daemon wires it.
//
// # Theory of operation
//
// Where a client comes from says whose policy counts: the machine's own address
// is the engine, every other a container. A destination is then reached so:
//
//	destination                         way
//	not a host and a port               400
//	a container's address, by number    403: clients reach those themselves
//	or by name
//	an address of the link              direct
//	all else                            the routes of the policy, in order
//
// "Direct" is Config.Dial: names are looked up as a container's, and each
// address is dialled as if the client itself did, with all that egress refuses.
// Only proxies are dialled as the host's own. An error becomes a status and a
// line of text that names the proxy and the setting, never a password.
//
//	forward proxy     CONNECT: tunnel, then relay.TCP on both connections.
//	                  http://...: net/http's server and transport, with
//	                  httputil.ReverseProxy between them
//	transparent       see transparent.go
package server
