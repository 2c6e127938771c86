//go:build !linux

package agentlink

import (
	"fmt"
	"net"
)

// checkPeer refuses everybody: hosts are Linux today.
func checkPeer(conn net.Conn) error {
	return fmt.Errorf("check peer of %s: not supported on this system", conn.LocalAddr())
}
