//go:build !linux

package publish

import (
	"net"
	"time"
)

// limitUnacknowledged has no counterpart here: the system's own limit holds.
func limitUnacknowledged(*net.TCPConn, time.Duration) {}
