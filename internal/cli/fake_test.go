//go:build unix

package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/cli"
	"github.com/portolan-net/portolan/internal/portolan"
)

// fakePlatform is a host whose machine is a control socket and nothing more.
// FAKE_SERVE says how it behaves.
func fakePlatform() cli.Platform {
	return cli.Platform{
		Serve: fakeServe,
		RouterHelper: func(_ context.Context, args []string) error {
			fmt.Println("helper", strings.Join(args, " "))
			return nil
		},
		ForceDown: forceDown,
	}
}

func fakeServe(ctx context.Context, o cli.ServeOptions) error {
	pids, err := os.OpenFile(os.Getenv("FAKE_PIDS"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(pids, os.Getpid())
	_ = pids.Close()
	o.Log.Info("fake daemon", "engine", o.Engine, "profile", o.Profile.Name)
	progress := o.Progress
	if progress == nil {
		progress = struct {
			io.Writer
			io.Closer
		}{io.Discard, io.NopCloser(nil)}
	}
	steps := json.NewEncoder(progress)
	_ = steps.Encode(api.Step{Name: "engine found"})
	_ = steps.Encode(api.Step{Name: "engine found", Done: true, Took: 1500 * time.Millisecond})
	switch os.Getenv("FAKE_SERVE") {
	case "fail":
		return errors.New("no space left on the moon")
	case "fail at ready":
		_ = steps.Encode(api.Step{Name: "ready", Error: "dockerd exits with 1"})
		return errors.New("dockerd exits with 1")
	case "panic":
		panic("the sky falls")
	case "silent":
		os.Exit(1)
	case "hang":
		<-ctx.Done()
		o.Log.Info("cleaned up")
		return context.Cause(ctx)
	case "slow":
		time.Sleep(time.Second)
	}
	return serveFake(ctx, o, func() {
		_ = steps.Encode(api.Step{Name: "ready", Done: true, Took: 2 * time.Second})
		_ = progress.Close()
	})
}

// serveFake is the control API of a machine that does nothing.
func serveFake(ctx context.Context, o cli.ServeOptions, ready func()) error {
	_ = os.Remove(o.Profile.ControlSocket())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.Profile.ControlSocket()})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(api.Status{
			Profile: o.Profile.Name, State: api.Running, Link: portolan.DefaultLink(), Context: o.Profile.ContextName(),
			DockerHost: "unix://" + o.Profile.DockerSocket(),
			Daemon:     api.Process{PID: os.Getpid(), Version: o.Version, Since: time.Now()},
			Machine:    api.Process{PID: os.Getpid(), Version: "v1.2.2"},
			Engine:     api.Engine{Version: "29.0.1", Source: o.Engine, Ready: true},
		})
	})
	mux.HandleFunc("POST /v1/settings/check", func(w http.ResponseWriter, r *http.Request) {
		if text, err := io.ReadAll(r.Body); err != nil || strings.Contains(string(text), "no-such-option") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error":"dockerd knows no such option"}`))
			return
		}
		_, _ = w.Write([]byte(`{}`))
	})
	mux.HandleFunc("POST /v1/settings", func(w http.ResponseWriter, r *http.Request) {
		restarted := r.URL.Query().Get("restart") == "true"
		if text, err := os.ReadFile(o.Profile.SettingsFile()); err == nil && strings.Contains(string(text), "no-start") {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`{"error":"dockerd does not start"}`))
			return
		}
		applied := api.Applied{Restarted: restarted}
		if !restarted {
			applied.Pending = []string{"the engine waits"}
		}
		_ = json.NewEncoder(w).Encode(applied)
	})
	mux.HandleFunc("POST /v1/down", func(w http.ResponseWriter, _ *http.Request) {
		if os.Getenv("FAKE_DOWN") == "error" {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`{"error":"umount: busy"}`))
			return
		}
		stop()
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	ready()
	if os.Getenv("FAKE_SERVE") == "deaf" {
		_ = os.Remove(o.Profile.ControlSocket())
	}
	<-ctx.Done()
	err = server.Shutdown(context.WithoutCancel(ctx))
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		return serveErr
	}
	return err
}
