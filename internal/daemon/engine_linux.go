package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/agentlink"
	"github.com/portolan-net/portolan/internal/enginesocket"
)

// serveClients hands every connection of listener to serve, when it is one of
// this user's own processes.
func serveClients(ctx context.Context, listener *net.UnixListener, serve func(context.Context, enginesocket.Conn), log *slog.Logger) error {
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
			if isShortage(err) { // flows have used up what there is; to give up would end them all
				log.Warn("accept pauses", "err", err)
				select {
				case <-ctx.Done():
				case <-time.After(acceptPause):
				}
				continue
			}
			return fmt.Errorf("accept on engine socket: %w", err)
		}
		client, ok := accepted.(*net.UnixConn)
		if !ok {
			return fmt.Errorf("accept on engine socket: %T", accepted)
		}
		open.Go(func() { serve(ctx, client) })
	}
}

// acceptPause is how long accepting waits for others to give something back.
const acceptPause = 100 * time.Millisecond

// isShortage reports a lack of descriptors or memory, which passes.
func isShortage(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}

// maxAnswer is more than the engine says about anything: what the machine says is
// not to fill this process's memory. Events, which have no end, are heard anew after it.
const maxAnswer = 64 << 20

func dialEngine(ctx context.Context, engineSocket string) (*net.UnixConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", engineSocket)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil // what a dial of "unix" returns
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
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&list); err != nil {
		return 0, errors.New("list containers: " + err.Error())
	}
	return len(list), nil
}
