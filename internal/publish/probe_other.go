//go:build !linux

package publish

import (
	"syscall"

	"github.com/portolan-net/portolan/internal/datapath"
)

// carried can't tell here.
func carried(datapath.Conn) (received, sent int64) { return 0, 0 }

// probe has no counterpart here: the system's own limits hold.
func probe(datapath.Conn) {}

// bindAnywhere has no counterpart here: the host must have the address.
func bindAnywhere(_, _ string, _ syscall.RawConn) error { return nil }
