//go:build !linux

package relay

import (
	"context"
	"net"

	"github.com/portolan-net/portolan/internal/datapath"
)

// transfer carries one direction until src's FIN.
func (f *stream) transfer(src, dst *side) (int64, error) { return copyBuffered(src.Conn, dst.Conn) }

// watch has no event to wait for here: an RST is seen by the next read or write.
func watch(datapath.Conn) bool { return false }

// hidesReset knows no way to tell here.
func hidesReset(*side) bool { return false }

// limitQueue is the kernel's own choice here.
func limitQueue(*net.TCPConn) {}

// carryKernel is not to be had here.
func carryKernel(context.Context, datapath.Conn, datapath.Conn) (Stats, bool) { return Stats{}, false }
