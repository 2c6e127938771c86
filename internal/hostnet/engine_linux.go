package hostnet

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// engine answers whether containers use the machine's own network.
type engine struct {
	http *http.Client
	log  *slog.Logger

	mu      sync.Mutex // guards the one below
	hearing context.CancelFunc
}

// hangUp ends the hearing of events, which begins again after enginePause.
func (e *engine) hangUp() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.hearing != nil {
		e.hearing()
	}
}

// hear returns the context of one hearing.
func (e *engine) hear(ctx context.Context) (context.Context, context.CancelFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ctx, e.hearing = context.WithCancel(ctx)
	return ctx, e.hearing
}

func newEngine(socket string, log *slog.Logger) *engine {
	return &engine{log: log, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}}
}

// enginePause is the time between attempts to hear the engine.
const enginePause = 500 * time.Millisecond

// follow tells use, now and after each container's start and end, until ctx ends.
// While the engine is down nothing is told: containers may live on.
func (e *engine) follow(ctx context.Context, use func(used bool)) {
	const events = `{"type":["container"],"event":["start","die"]}`
	look := func() error {
		used, err := e.used(ctx)
		if err == nil {
			use(used)
		}
		return err
	}
	for ctx.Err() == nil {
		hearing, end := e.hear(ctx)
		err := e.get(hearing, "/events?filters="+url.QueryEscape(events), func(body io.Reader) error {
			if err := look(); err != nil {
				return err
			}
			for decoder := json.NewDecoder(body); ; {
				var event struct{}
				if err := decoder.Decode(&event); err != nil {
					return err
				}
				if err := look(); err != nil {
					return err
				}
			}
		})
		end()
		e.log.Debug("engine tells no events", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(enginePause):
		}
	}
}

// used asks for running containers on the host network. One that joined another
// container's network comes with that one.
func (e *engine) used(ctx context.Context) (bool, error) {
	var list []struct{}
	filters := url.QueryEscape(`{"network":["host"]}`)
	err := e.get(ctx, "/containers/json?filters="+filters, func(body io.Reader) error {
		return json.NewDecoder(body).Decode(&list)
	})
	return len(list) > 0, err
}

// maxAnswer is more than the engine says about anything: what the machine says is
// not to fill this process's memory. Events, which have no end, are heard anew after it.
const maxAnswer = 64 << 20

func (e *engine) get(ctx context.Context, path string, read func(io.Reader) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, http.NoBody)
	if err != nil {
		return err
	}
	response, err := e.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the engine for %s: %s", path, response.Status)
	}
	return read(io.LimitReader(response.Body, maxAnswer))
}
