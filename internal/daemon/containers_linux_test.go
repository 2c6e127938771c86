package daemon

import (
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// Who hears the engine's events keeps dockerd from ending, and so hangs up.
func TestHangUp(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "engine.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	engine := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = engine.Serve(l) }()
	t.Cleanup(func() { _ = engine.Close(); <-served })
	c := &containers{socket: socket}
	for range 2 { // it can be heard again
		heard, ended := make(chan struct{}, 2), make(chan error, 2)
		for range 2 {
			go func() { ended <- c.events(t.Context(), func() { heard <- struct{}{} }) }()
		}
		<-heard
		<-heard
		c.hangUp()
		for range 2 {
			select {
			case err := <-ended:
				if err == nil {
					t.Error("events end without an error")
				}
			case <-time.After(5 * time.Second):
				t.Fatal("events are heard on")
			}
		}
	}
	if len(c.hearing) != 0 {
		t.Errorf("%d are noted after their end", len(c.hearing))
	}
}
