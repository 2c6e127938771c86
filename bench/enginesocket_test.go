package bench

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/portolan-net/portolan/bench/report"
	"github.com/portolan-net/portolan/internal/stage"
)

// measureEngineSocket compares the socket that docker uses with the engine's
// own: small requests, and archives. They take turns, and who begins changes: what
// one of them adds is less than what other work on the computer takes meanwhile.
func measureEngineSocket(b *testing.B, r *recorder, s *stage.Stage, d time.Duration) {
	b.Helper()
	const own, group, mebibytes, archives = "the engine's own", "Engine socket", 128, 4
	s.Docker(b, "create", "--name", "big", imageName)
	defer s.Docker(b, "rm", "big")
	big := filepath.Join(b.TempDir(), "big")
	check(b, os.WriteFile(big, make([]byte, mebibytes<<20), 0o600))
	s.Docker(b, "cp", big, "big:/big")
	dir := filepath.Join(s.RunDir, "default")
	sockets := []engineSocket{
		{own, filepath.Join(dir, "machine", "engine.sock")},
		{report.Portolan, filepath.Join(dir, "docker.sock")},
	}
	limit := report.Limit{Of: own, Factor: 1}
	for range chosen().rounds {
		for _, socket := range sockets {
			began, requests := time.Now(), 0
			client := socket.client()
			for ; time.Since(began) < d; requests++ {
				fetch(b, client, "/containers/json?all=1")
			}
			r.add(group, column{"socket/requests", "small", "requests/s", false, limit}, socket.name, float64(requests)/time.Since(began).Seconds())
			client.CloseIdleConnections()
		}
		for range archives {
			for _, socket := range sockets {
				began := time.Now()
				client := socket.client()
				n := fetch(b, client, "/containers/big/archive?path=/big")
				r.add(group, column{"socket/archive", "archive", "MB/s", false, limit}, socket.name, float64(n)/1e6/time.Since(began).Seconds())
				client.CloseIdleConnections()
			}
			slices.Reverse(sockets)
		}
	}
}

// engineSocket is one of the sockets at which the engine can be asked.
type engineSocket struct{ name, path string }

func (s engineSocket) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.path)
	}}}
}

// fetch reads what the engine answers.
func fetch(b *testing.B, client *http.Client, path string) int64 {
	b.Helper()
	request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://engine"+path, http.NoBody)
	check(b, err)
	response, err := client.Do(request)
	check(b, err)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		b.Fatalf("%s: %s", path, response.Status)
	}
	n, err := io.Copy(io.Discard, response.Body)
	check(b, err)
	return n
}
