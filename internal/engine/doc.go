// Package engine finds, configures and supervises the stock engine: dockerd,
// containerd and runc. Finding happens on the host (package daemon), the rest
// in the machine (cmd/portolan-agent). It never patches the engine and knows
// nothing of the datapath.
package engine
