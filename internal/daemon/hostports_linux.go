package daemon

import (
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// hostPortsShare is the part of the daemon's descriptors that ports of containers
// on the host network may take: a program in a container opens as many as it
// likes, and everybody else's connections need the rest.
const hostPortsShare = 4

// maxHostPorts is how many that are now.
func maxHostPorts() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 256
	}
	return int(min(limit.Cur, 1<<20)) / hostPortsShare
}

// bounded leaves out of wanted what is beyond most, first of all what does not
// stand yet, and returns the number of those.
func (h *hostNetwork) bounded(wanted map[portolan.Binding]string, most int) int {
	beyond := len(wanted) - most
	if beyond <= 0 {
		return 0
	}
	left := beyond
	stands := map[portolan.Binding]bool{}
	for _, port := range h.table.List() {
		stands[port.Binding] = true
	}
	for _, old := range []bool{false, true} {
		for b := range wanted {
			if left > 0 && stands[b] == old {
				delete(wanted, b)
				left--
			}
		}
	}
	return beyond
}
