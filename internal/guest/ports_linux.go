package guest

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

// Where the kernel keeps what dockerd takes for the range of random ports, and
// the ports of it that are left out.
const (
	kernelPorts   = "32768 60999" // a new network namespace's
	portRange     = "/proc/sys/net/ipv4/ip_local_port_range"
	reservedPorts = "/proc/sys/net/ipv4/ip_local_reserved_ports"
)

// RandomPorts shows the engine the range from which it chooses ports for -P and
// `-p ADDRESS::PORT`, and which of them the host uses.
//
// Theory of operation. dockerd (daemon/libnetwork/portallocator in
// v2.0.0-beta.24) takes the kernel's range for outgoing connections less the
// kernel's reserved ports. It reads both once, at the first port that it
// publishes, and has no option. So the kernel's range is narrow from before
// dockerd starts until its first shim shows that it has been read. Meanwhile
// containers on the machine's host network have only that range for connections
// to any one server. The host's ports are reserved all the time, which such
// containers do not mind, and those that the host takes later have placeholders:
// dockerd passes over up to nine ports that it can't bind.
type RandomPorts struct {
	log *slog.Logger

	mu       sync.Mutex // guards what follows
	ports    system.PortRange
	usual    string // the kernel's own range; "" while that is in force
	path     string
	reserved string // path of the kernel's reserved ports
	held     placeholders
}

// NewRandomPorts changes nothing yet.
func NewRandomPorts(ports system.PortRange, log *slog.Logger) *RandomPorts {
	return &RandomPorts{log: log, ports: ports, path: portRange, reserved: reservedPorts, held: placeholders{}}
}

// Set chooses another range, for the next start of dockerd, and returns the
// one before.
func (r *RandomPorts) Set(ports system.PortRange) system.PortRange {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.ports
	r.ports = ports
	return before
}

// Show is called before dockerd starts.
func (r *RandomPorts) Show() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ports.Size() == 0 {
		return
	}
	usual := r.usual
	if usual == "" {
		text, err := os.ReadFile(r.path)
		if err != nil {
			r.log.Warn("range of random ports is not set", "error", err)
			return
		}
		usual = string(text)
	}
	narrow := fmt.Sprintf("%d %d", r.ports.First, r.ports.Last)
	if err := os.WriteFile(r.path, []byte(narrow), 0); err != nil { // the engine chooses from a wider range
		r.log.Warn("range of random ports is not set", "error", err)
		return
	}
	r.usual = usual
	if strings.Join(strings.Fields(r.usual), " ") == narrow {
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

// Busy keeps the engine from choosing the ports that the host uses: all of them,
// and no others from now on.
func (r *RandomPorts) Busy(ports []portolan.Port) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.WriteFile(r.reserved, []byte(portList(ports)), 0); err != nil {
		r.log.Warn("ports that the host uses are not reserved", "error", err)
	}
	r.held.hold(ports, r.log)
}

// portList writes ports as the kernel reads them, "49000-49049,49800": merged,
// lest they be more than a page of text.
func portList(ports []portolan.Port) string {
	var numbers []uint16
	for _, p := range ports {
		numbers = append(numbers, p.Host.Port())
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	var words []string
	for len(numbers) > 0 {
		n := 1
		for n < len(numbers) && numbers[n] == numbers[n-1]+1 {
			n++
		}
		word := fmt.Sprint(numbers[0])
		if n > 1 {
			word = system.PortRange{First: numbers[0], Last: numbers[n-1]}.String()
		}
		words, numbers = append(words, word), numbers[n:]
	}
	return strings.Join(words, ",") + "\n"
}
