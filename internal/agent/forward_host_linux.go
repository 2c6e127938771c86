package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"

	"github.com/portolan-net/portolan/internal/agentlink"
	"github.com/portolan-net/portolan/internal/hostservice"
)

// Far is hostservice.Far: the agent behind a shared directory, as the host sees it.
type Far struct{ SharedDir string }

// SetListeners gives the machine the listeners of forwards.
func (f Far) SetListeners(ctx context.Context, want []hostservice.Endpoint) error {
	text, err := json.Marshal(want)
	if err != nil {
		return err
	}
	return post(ctx, f.SharedDir, "/v1/listeners", "set forwards", bytes.NewReader(text))
}

// CheckTarget says why no forward may lead to something in the machine.
func (f Far) CheckTarget(ctx context.Context, to hostservice.Endpoint) error {
	return post(ctx, f.SharedDir, "/v1/check?"+query(to), "in the machine", http.NoBody)
}

// Dial opens a stream to something in the machine.
func (f Far) Dial(ctx context.Context, to hostservice.Endpoint) (*net.UnixConn, error) {
	conn, err := agentlink.OpenStream(ctx, filepath.Join(f.SharedDir, socketName), "/v1/dial", queryOf(to))
	if errors.Is(err, syscall.ECONNREFUSED) {
		err = fmt.Errorf("the machine's agent starts again: %w", err)
	}
	return conn, err
}

func queryOf(to hostservice.Endpoint) url.Values { return url.Values{"to": {to.String()}} }

func query(to hostservice.Endpoint) string { return queryOf(to).Encode() }
