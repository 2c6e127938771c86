package hostservice

import (
	"context"
	"net/http"
	"time"
)

// engineTime is how long a server may take to say that it is an engine; one that
// waits for something else says nothing.
const engineTime = time.Second

// isEngine reports whether the Docker API answers at a TCP address: with a header
// that dockerd and Podman send, whatever else they say.
func isEngine(ctx context.Context, e Endpoint) bool {
	ctx, cancel := context.WithTimeout(ctx, engineTime)
	defer cancel()
	ping, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.Address+"/_ping", http.NoBody)
	if err != nil {
		return false
	}
	answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(ping)
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.Header.Get("Docker-Experimental") != ""
}
