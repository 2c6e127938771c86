package agentlink

import (
	"context"
	"fmt"
	"net/http"

	"github.com/portolan-net/portolan/internal/portolan"
)

// SetHostNetwork tells what containers on the machine's own network wait on.
func (c *Client) SetHostNetwork(ctx context.Context, n portolan.HostNetwork) error {
	return c.send(ctx, http.MethodPut, pathHostNet, n)
}

func (s *server) serveHostNetwork(w http.ResponseWriter, r *http.Request) {
	receive(w, r, func(n portolan.HostNetwork) error {
		for _, l := range n.Listeners {
			if (l.Proto != portolan.TCP && l.Proto != portolan.UDP) || !l.Addr.IsValid() || l.Addr.Port() == 0 || l.Addr.Addr().Is4In6() {
				return &Error{Status: http.StatusBadRequest, Text: fmt.Sprintf("read listener %s: want tcp or udp, an address and a port", l)}
			}
		}
		s.daemon.SetHostNetwork(n)
		return nil
	})
}
