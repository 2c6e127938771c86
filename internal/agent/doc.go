// Package agent is the one program of Portolan's that works inside the machine:
// it prepares the network, supervises the engine, serves the shims of published
// ports, and tells the daemon what the machine has. cmd/portolan-agent runs it;
// the host imports it for Shutdown and Probe, which speak to its socket in the
// shared directory.
package agent
