// Package daemon is the one host process that carries a machine's traffic: it
// finds the engine, starts the machine or takes over a running one, and joins
// datapath, egress, DNS, publishing and the engine's socket. It decides nothing
// about flows itself. Only cmd/portolan imports it.
//
// # Life
//
//	prepare    directories, the engine's programs
//	machine    taken over when its helper lives, else what is left of it is
//	           cleared and a new one started
//	services   one errgroup; when one fails the daemon ends
//	ready      the engine has answered through the socket that users get
//
// How it ends decides what goes with it: a start that fails, POST /v1/down and
// Ctrl-C take the machine down; SIGTERM, SIGKILL, POST /v1/release and a failure
// later on leave it running for the next daemon to take over.
package daemon
