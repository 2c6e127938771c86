// Package agent is the one program of Portolan's that works inside the machine:
// it prepares the network, supervises the engine, serves the shims of published
// ports, and tells the daemon what the machine has. Only cmd/portolan-agent
// imports it; Shutdown, its one service, is a socket in the shared directory.
package agent
