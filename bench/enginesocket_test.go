package bench

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// BenchmarkEngineSocket compares the socket that docker uses with the engine's
// own: small requests, and an archive.
func BenchmarkEngineSocket(b *testing.B) {
	s := stage.Up(b)
	s.Docker(b, "run", "--name", "big", "--entrypoint", "/bin/busybox", testimage.Name, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=512")
	dir := filepath.Join(s.RunDir, "default")
	sockets := map[string]string{"by Portolan": filepath.Join(dir, "docker.sock"), "the engine's own": filepath.Join(dir, "machine", "engine.sock")}
	small, big := newTable("Engine socket, requests", "requests/s"), newTable("Engine socket, archive", "MB/s")
	for range chosen().rounds {
		for _, name := range []string{"the engine's own", "by Portolan"} {
			client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", sockets[name])
			}}}
			began, requests := time.Now(), 0
			for ; time.Since(began) < chosen().small; requests++ {
				fetch(b, client, "/containers/json?all=1")
			}
			small.add(name, float64(requests)/time.Since(began).Seconds())
			began = time.Now()
			n := fetch(b, client, "/containers/big/archive?path=/big")
			big.add(name, float64(n)/1e6/time.Since(began).Seconds())
			client.CloseIdleConnections()
		}
	}
	small.print(os.Stdout, "the engine's own")
	big.print(os.Stdout, "the engine's own")
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
