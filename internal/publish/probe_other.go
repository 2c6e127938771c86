//go:build !linux

package publish

import (
	"net"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
)

// carried can't tell here.
func carried(datapath.Conn) (received, sent int64) { return 0, 0 }

// limitUnacknowledged has no counterpart here: the system's own limit holds.
func limitUnacknowledged(*net.TCPConn, time.Duration) {}
