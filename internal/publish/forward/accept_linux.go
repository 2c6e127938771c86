package forward

import (
	"net"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/socket"
)

// accept waits for the listener's next connection, a *socket.TCP if there is a
// descriptor to spare.
func accept(listener *net.TCPListener) (datapath.Conn, error) {
	conn, err := listener.AcceptTCP()
	if err != nil {
		return nil, err
	}
	detached, err := socket.Detach(conn)
	if err != nil {
		return conn, nil // descriptors are short: it is carried all the same
	}
	if from := detached.Remote().Addr(); from.IsLoopback() || from == detached.Local().Addr() {
		_ = detached.Control(socket.Unpace) // fails on a closed connection only
	}
	return detached, nil
}
