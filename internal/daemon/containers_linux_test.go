package daemon

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An engine that is no longer the engine may answer without end: that is an error,
// and costs no more than the longest answer that is taken.
func TestEndlessAnswer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "engine.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan int64, 1)
	engine := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		endless := io.MultiReader(strings.NewReader(`[{"Id":"`), letters{})
		n, _ := io.Copy(w, io.LimitReader(endless, 4*maxAnswer)) // an error ends it, or else the test fails
		sent <- n
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = engine.Serve(l) }()
	t.Cleanup(func() { _ = engine.Close(); <-served })
	err = askEngine(t.Context(), socket, "/containers/json", func(body io.Reader) error {
		return json.NewDecoder(body).Decode(&[]container{})
	})
	const underway = 16 << 20 // in buffers
	if n := <-sent; err == nil || n > maxAnswer+underway {
		t.Errorf("%d bytes were sent, error %v", n, err)
	}
}

// letters is the letter x without end.
type letters struct{}

func (letters) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

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

// Whatever the engine lists: containers with a name and with addresses that are some.
func FuzzContainers(f *testing.F) {
	for _, text := range []string{
		`[{"Id":"x","Names":["/a/b","/a"],"NetworkSettings":{"Networks":{"n":{"IPAddress":"172.17.0.2","GlobalIPv6Address":""}}}}]`,
		`[{"Id":"x","Names":[""],"NetworkSettings":{"Networks":{"n":null}}}]`, `[null]`, `null`, `[{"Names":null,"NetworkSettings":null}]`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var all []container
		if json.Unmarshal(text, &all) != nil {
			t.Skip()
		}
		for _, c := range all {
			if name := c.name(); name != c.ID && strings.Contains(name, "/") {
				t.Errorf("name %q", name)
			}
			for _, addr := range c.addrs() {
				if !addr.IsValid() {
					t.Errorf("addresses %v", c.addrs())
				}
			}
		}
	})
}
