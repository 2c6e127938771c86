package agent

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"time"
)

// Renew ends an agent, and whoever asks when it has returned meets the next one.
func TestRenew(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	const agents = 3
	ended := make(chan error, agents)
	met := make(chan int, agents)
	go func() {
		for i := range agents {
			ctx, end := context.WithCancel(t.Context())
			name := func(mux *http.ServeMux) {
				mux.HandleFunc("POST /v1/name", func(http.ResponseWriter, *http.Request) { met <- i })
			}
			ended <- serveHost(ctx, dir, fakeSupervisor{}, &fakeRandom{}, log, takeRenew(dir, end, log), name)
			time.Sleep(50 * time.Millisecond) // PID 1 takes its time, too
		}
	}()
	for want := range agents {
		if want > 0 {
			if err := Renew(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
		} else if err := awaitAgent(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		if err := post(t.Context(), dir, "/v1/name", "ask for the name", http.NoBody); err != nil {
			t.Fatal(err)
		}
		if got := <-met; got != want {
			t.Errorf("agent %d answers, want %d", got, want)
		}
	}
	for range agents - 1 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	late, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := Renew(late, t.TempDir()); err == nil {
		t.Error("Renew finds an agent where there is none")
	}
}
