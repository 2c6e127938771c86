//go:build !linux

package forward

import (
	"errors"
	"net"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
)

// accept takes connections until Close.
func (t *TCP) accept(take func(datapath.Conn)) error {
	for pause := firstPause; ; {
		client, err := t.Listener.AcceptTCP()
		switch {
		case err == nil:
			pause = firstPause
			take(client)
		case errors.Is(err, net.ErrClosed):
			return nil
		case exhausted(err):
			if pause == firstPause {
				t.Log.Warn("accept pauses", "listener", t.Listener.Addr(), "error", err)
			}
			time.Sleep(pause) // a second at most
			pause = min(2*pause, lastPause)
		default:
			return err
		}
	}
}
