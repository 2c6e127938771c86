package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"github.com/portolan-net/portolan/internal/agentlink"
	"github.com/portolan-net/portolan/internal/relay"
)

// passThrough carries every connection of listener to the engine's own socket
// and back, byte for byte: attach, exec and build sessions included.
func passThrough(ctx context.Context, listener *net.UnixListener, engineSocket string, log *slog.Logger) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var open sync.WaitGroup
	defer open.Wait()
	owners := agentlink.OwnersOnly(listener, log)
	for {
		accepted, err := owners.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on engine socket: %w", err)
		}
		client, ok := accepted.(*net.UnixConn)
		if !ok {
			return fmt.Errorf("accept on engine socket: %T", accepted)
		}
		open.Go(func() {
			engine, err := dialEngine(ctx, engineSocket)
			if err != nil {
				log.Warn("reach engine", "err", err)
				_ = client.Close()
				return
			}
			relay.TCP(ctx, client, engine)
		})
	}
}

func dialEngine(ctx context.Context, engineSocket string) (*net.UnixConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", engineSocket)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil //nolint:errcheck // what a dial of "unix" returns
}

// runningContainers asks the engine how many containers run.
func runningContainers(ctx context.Context, engineSocket string) (int, error) {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialEngine(ctx, engineSocket)
		},
		DisableKeepAlives: true,
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/containers/json", http.NoBody)
	if err != nil {
		return 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	var list []struct{}
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		return 0, errors.New("list containers: " + err.Error())
	}
	return len(list), nil
}
