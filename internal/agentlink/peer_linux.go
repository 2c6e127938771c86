package agentlink

import (
	"fmt"
	"net"
	"os"

	"github.com/portolan-net/portolan/internal/system"
)

// checkPeer refuses other users' processes, by SO_PEERCRED (unix(7)). The kernel
// translates the uid into the daemon's user namespace: the machine's root is the
// daemon's own user there, or root.
func checkPeer(conn net.Conn) error {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("check peer of %s: not a unix socket", conn.LocalAddr())
	}
	uid, err := system.PeerUID(socket)
	if err != nil {
		return err
	}
	return allowed(uint32(uid))
}

func allowed(uid uint32) error {
	if uid != 0 && int(uid) != os.Geteuid() {
		return fmt.Errorf("check peer: user %d may not speak here", uid)
	}
	return nil
}
