package guest

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
)

// The range from which the engine chooses ports for -P and `-p ADDRESS::PORT`,
// and where the kernel keeps what it takes for one.
const (
	randomPorts = "49000 49900"
	kernelPorts = "32768 60999" // a new network namespace's
	portRange   = "/proc/sys/net/ipv4/ip_local_port_range"
)

// RandomPorts shows the engine the range of random ports. dockerd takes the
// kernel's range for outgoing connections, reads it once, at the first port that
// it publishes (daemon/libnetwork/portallocator in v2.0.0-beta.24), and has no
// option. So the kernel's range is narrow from before dockerd starts until its
// first shim shows that it has been read. Meanwhile containers on the machine's
// host network have 901 ports for connections to any one server.
type RandomPorts struct {
	log *slog.Logger

	mu    sync.Mutex // guards the two below
	usual string     // the kernel's own range; "" while that is in force
	path  string
}

// NewRandomPorts changes nothing yet.
func NewRandomPorts(log *slog.Logger) *RandomPorts { return &RandomPorts{log: log, path: portRange} }

// Show is called before dockerd starts.
func (r *RandomPorts) Show() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.usual != "" {
		return
	}
	usual, err := os.ReadFile(r.path)
	if err == nil {
		err = os.WriteFile(r.path, []byte(randomPorts), 0)
	}
	if err != nil { // the engine chooses from a wider range
		r.log.Warn("range of random ports is not set", "error", err)
		return
	}
	r.usual = string(usual)
	if strings.Join(strings.Fields(r.usual), " ") == randomPorts {
		r.usual = kernelPorts // an agent died that had narrowed it
	}
}

// Seen is called when dockerd publishes.
func (r *RandomPorts) Seen() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.usual == "" {
		return
	}
	if err := os.WriteFile(r.path, []byte(r.usual), 0); err != nil {
		r.log.Error("range of outgoing ports stays narrow", "error", fmt.Errorf("write %s: %w", r.path, err))
		return
	}
	r.usual = ""
}
