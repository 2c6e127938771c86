//go:build !linux

package relay

import (
	"context"
	"net/netip"

	"github.com/portolan-net/portolan/internal/datapath"
)

// watch has no event to wait for here: an RST is seen by the next read or write.
func watch(datapath.Conn) bool { return false }

// hidesReset knows no way to tell here.
func hidesReset(*side) bool { return false }

// ordinary has nothing to do here.
func ordinary(conn datapath.Conn) datapath.Conn { return conn }

// carryKernel is not to be had here.
func carryKernel(context.Context, *datapath.Conn, *datapath.Conn, func(Stats)) bool { return false }

// resetKernelFrom has no such flows here.
func resetKernelFrom(netip.Addr) int { return 0 }
