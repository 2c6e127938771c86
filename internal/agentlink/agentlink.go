// Package agentlink is the protocol between the agent in the machine and the
// daemon on the host: HTTP/1.1 with JSON bodies on a unix socket that the daemon
// serves and the machine sees in its shared directory. Package daemon serves it,
// the agent calls it; nothing else imports it.
//
//	GET  /v1/watch      200, then held open for the agent's life
//	POST /v1/publish    portolan.Binding   the engine publishes a port
//	POST /v1/renew      portolan.Binding   the port is published still
//	POST /v1/unpublish  portolan.Binding   the engine closes the port
//	POST /v1/release    portolan.Binding   the engine that published it is gone
//	PUT  /v1/engine     api.Engine
//	PUT  /v1/networks   [netip.Prefix, ...]
//	PUT  /v1/hostnetwork  portolan.HostNetwork
//	GET  /v1/listeners  ["unix:PATH", ...]: what forwards listen on in the machine
//	POST /v1/forward?listener=...  101, then the bytes of one connection
//
// An answer without content is 204. Errors are {"error":"..."}, written for the
// user who typed `docker run -p`: 409 for a taken port, 400 for a request that
// can't be right, 403 for a port that the host's user may not open, 500 else.
//
// Theory of operation. The watch is how each side sees the other go. The daemon
// calls AgentHere before it answers a watch and AgentGone when the watch in force
// ends; a new watch replaces the one before it, whose agent died. The agent, each
// time a watch stands, pushes all it knows (bindings by renew, engine state,
// networks, host network): neither side keeps a history of the other.
package agentlink

import (
	"errors"
	"fmt"
	"net/http"
	"syscall"

	"github.com/portolan-net/portolan/internal/portolan"
)

const (
	pathWatch     = "/v1/watch"
	pathPublish   = "/v1/publish"
	pathRenew     = "/v1/renew"
	pathUnpublish = "/v1/unpublish"
	pathRelease   = "/v1/release"
	pathEngine    = "/v1/engine"
	pathNetworks  = "/v1/networks"
	pathHostNet   = "/v1/hostnetwork"

	// maxBody bounds a request: ten thousand networks fit.
	maxBody = 1 << 20
)

// Error is a refusal by the daemon, in contrast to one that did not answer. Its
// text is complete: "listen on 0.0.0.0:80/tcp: address already in use".
type Error struct {
	Status int // of HTTP
	Text   string
}

func (e *Error) Error() string { return e.Text }

// errorBody is what a refusal carries.
type errorBody struct {
	Error string `json:"error"`
}

// statusOf chooses the status of a daemon's error.
func statusOf(err error) int {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return http.StatusConflict
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return http.StatusBadRequest
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return http.StatusForbidden
	}
	return http.StatusInternalServerError
}

// checkBinding refuses what is no binding of a known protocol.
func checkBinding(b portolan.Binding) error {
	if (b.Proto != portolan.TCP && b.Proto != portolan.UDP) || !b.Host.IsValid() || !b.Container.IsValid() {
		return fmt.Errorf("read binding %s: want tcp or udp, a host address and a container address", b)
	}
	return nil
}
