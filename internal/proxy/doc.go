// Package proxy decides how a destination is reached, and reaches it: directly,
// by way of an HTTP or SOCKS5 proxy of the company, or not at all. Package
// daemon feeds it with settings; internal/proxy/server and egress ask it for
// each connection.
//
// # Theory of operation
//
// A Config is what somebody chose. Compile makes a Policy of it: immutable,
// cheap to ask, shared between goroutines. The Source holds the present two
// policies, the engine's and the containers', and tells when they change. A
// Dialer walks the routes that a policy decided for.
//
// The first line of this table that fits decides:
//
//	destination                          way
//	excluded                             direct
//	policy is closed                     blocked
//	of our own, or loopback, link-local  direct
//	there is a PAC script                what it says; no script, no way
//	there is a proxy for the scheme      that proxy
//	otherwise                            direct
//
// Names and addresses are judged as they are written: nothing is looked up to
// decide, except by a PAC script that asks.
//
// The package listens nowhere, and knows neither settings nor API.
package proxy
