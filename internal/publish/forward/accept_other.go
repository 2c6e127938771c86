//go:build !linux

package forward

import (
	"net"

	"github.com/portolan-net/portolan/internal/datapath"
)

// accept waits for the listener's next connection.
func accept(listener *net.TCPListener) (datapath.Conn, error) {
	conn, err := listener.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return conn, nil
}
