// Package api holds the types of the daemon's control API: HTTP with JSON
// bodies on the profile's control socket. Package daemon serves it, package
// client and the CLI use it; nothing of the datapath may import it.
//
//	GET  /v1/status   Status
//	POST /v1/down     stops the machine, then the daemon; answers when the machine is gone
//	POST /v1/release  stops the daemon; the machine goes on and the next daemon takes it over
package api

import (
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
)

// Status is what `portolan status --json` prints.
type Status struct {
	Profile    string        `json:"profile"`
	State      State         `json:"state"`
	DockerHost string        `json:"dockerHost"` // unix:///...
	Context    string        `json:"context"`
	Link       portolan.Link `json:"link"`
	Daemon     Process       `json:"daemon"`
	Helper     Process       `json:"helper"`
	Machine    Process       `json:"machine"` // PID 1 of the machine, as the host counts
	Engine     Engine        `json:"engine"`
	Ports      []Port        `json:"ports"`
	Problems   []string      `json:"problems,omitempty"` // each says what to do
}

// State of a profile as a whole.
type State string

// The states. Stopped is what the CLI says when no daemon answers.
const (
	Stopped  State = "stopped"
	Starting State = "starting"
	Running  State = "running"
	Degraded State = "degraded" // see Problems
	Stopping State = "stopping"
)

// Process is one of Portolan's processes. Version is Portolan's own.
type Process struct {
	PID     int       `json:"pid,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Version string    `json:"version,omitempty"`
}

// Engine tells about dockerd and containerd as the agent supervises them.
type Engine struct {
	Version    string `json:"version,omitempty"`
	Source     string `json:"source,omitempty"` // bundled, or the path of an installed dockerd
	Ready      bool   `json:"ready"`
	Restarts   int    `json:"restarts"` // of dockerd and containerd since the machine started
	LastExit   string `json:"lastExit,omitempty"`
	Containers int    `json:"containers"` // running
}

// Port is one binding that the daemon listens on.
type Port struct {
	portolan.Binding
	Since time.Time `json:"since"`
	// Error says why the host's listener does not stand, "" when it does.
	Error string `json:"error,omitempty"`
}

// Step is one line of the progress that a starting daemon reports, as JSON
// lines, on the descriptor that `portolan serve --progress-fd` names. The last
// line has Name "ready", or an Error.
type Step struct {
	Name  string        `json:"name"`
	Done  bool          `json:"done"`
	Took  time.Duration `json:"took,omitempty"`
	Error string        `json:"error,omitempty"`
}
