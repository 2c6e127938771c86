// Package api holds the types of the daemon's control API: HTTP with JSON
// bodies on the profile's control socket. Package daemon serves it, package
// client and the CLI use it; nothing of the datapath may import it.
//
//	GET  /v1/status   Status
//	GET  /v1/ports    [Port, ...]
//	POST /v1/ports    PortRequest: publishes on a running container, until it goes
//	DELETE /v1/ports  PortRequest: ends that
//	GET  /v1/dns/query?name=NAME&type=TYPE  DNSAnswer
//	GET  /v1/route?url=URL&container=NAME  Routes
//	GET  /v1/names    Names
//	GET  /v1/connect  ConnectOffer, or why the host may not be connected
//	POST /v1/down     stops the machine, then the daemon; answers when the machine is gone
//	POST /v1/settings/check takes the text of a settings file and says why what it changes can't be done
//	POST /v1/settings reads the settings again and answers Applied; with ?restart=true the engine restarts where they need it
//	POST /v1/release  stops the daemon; the machine goes on and the next daemon takes it over
package api

import (
	"net/netip"
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
	Connection *Connection   `json:"connection,omitempty"` // nil: the host is not connected
	Mode       portolan.Mode `json:"mode"`
	Pending    []string      `json:"pending,omitempty"`  // settings that do not count everywhere yet, and when they will
	Problems   []string      `json:"problems,omitempty"` // each says what to do
	// Goroutines are the daemon's, for who looks for a leak.
	Goroutines int `json:"goroutines,omitempty"`
}

// Applied is what became of changed settings.
type Applied struct {
	Restarted bool     `json:"restarted"`       // the engine, for them
	Moved     bool     `json:"moved,omitempty"` // the machine's network, and the engine with it
	Pending   []string `json:"pending,omitempty"`
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
	Refused    string `json:"refused,omitempty"` // why it does not run with the options of the settings, but with those of before
	Containers int    `json:"containers"`        // running
}

// Port is one binding that the daemon listens on.
type Port struct {
	portolan.Binding
	Since time.Time `json:"since"`
	// Name is the container's, or of a port of swarm's routing mesh the service's;
	// "" when the engine has not told.
	Name string `json:"name,omitempty"`
	// Added says that `portolan ports add` published it, not the engine.
	Added bool `json:"added,omitempty"`
	// HostNetwork says that a container with --network host opened it; ContainerID is
	// that container's, where it is known.
	HostNetwork bool   `json:"hostNetwork,omitempty"`
	ContainerID string `json:"containerId,omitempty"`
	Traffic
	// Error says why the host's listener does not stand, or for what it waits;
	// "" when it can be reached.
	Error string `json:"error,omitempty"`
}

// Traffic is what a port has carried since it was published: TCP connections, or
// clients of UDP, and payload bytes.
type Traffic struct {
	Connections int64 `json:"connections"`
	Open        int64 `json:"open"`     // of the connections
	Received    int64 `json:"received"` // from clients
	Sent        int64 `json:"sent"`     // to clients
}

// PortRequest is the body of POST and DELETE /v1/ports: one port of a container
// on one port of the host.
type PortRequest struct {
	Container string         `json:"container"`     // name or id
	Proto     portolan.Proto `json:"proto"`         // tcp or udp
	Host      netip.Addr     `json:"host,omitzero"` // none: all addresses
	HostPort  uint16         `json:"hostPort"`
	Port      uint16         `json:"port,omitempty"` // of the container; 0 in DELETE: whichever
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
