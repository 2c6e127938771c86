package enginesocket

import (
	"bufio"
	"net/http"
	"sync"
	"testing"
)

// Calls that come at once share the one connection to the engine, from the first
// moment of it.
func TestCallsAtOnce(t *testing.T) {
	path := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grpc-Status", "0")
	}), Extra{BuildArgs: []string{"HTTP_PROXY=p"}})
	for range 20 { // how soon the transport knows of it is chance
		callAtOnce(t, path)
	}
}

func callAtOnce(t *testing.T, path string) {
	t.Helper()
	var plain http.Protocols
	plain.SetUnencryptedHTTP2(true)
	conn := dialTest(t, path)
	transport := &http.Transport{Protocols: &plain, DialContext: newOnceDialer(buffered{conn, bufio.NewReader(conn)}).dial}
	defer transport.CloseIdleConnections()
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/moby.buildkit.v1.Control/Status", http.NoBody)
			if err != nil {
				t.Error(err)
				return
			}
			response, err := transport.RoundTrip(request)
			if err != nil {
				t.Error(err)
				return
			}
			_ = response.Body.Close()
			if status := response.Header.Get("Grpc-Status"); status != "0" {
				t.Errorf("status %s: %s", status, response.Header.Get("Grpc-Message"))
			}
		})
	}
	calls.Wait()
}
