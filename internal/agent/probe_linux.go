package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// probeTimeout covers a name whose first resolver does not answer, and a SYN
// that is sent again.
const probeTimeout = 10 * time.Second

// answerProbe opens a TCP connection to the target of the query from the
// machine's own network, names looked up by the machine's resolver, and tells
// its two ends.
func answerProbe(w http.ResponseWriter, r *http.Request) {
	dialer := net.Dialer{Timeout: probeTimeout}
	conn, err := dialer.DialContext(r.Context(), "tcp", r.URL.Query().Get("target"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(w, "%s, from %s", conn.RemoteAddr(), conn.LocalAddr())
}

// Probe asks the agent behind sharedDir, as the host sees it, to connect to
// target, "host:port", from inside the machine. It returns both ends of the
// connection, in words.
func Probe(ctx context.Context, sharedDir, target string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/v1/probe?target="+url.QueryEscape(target), http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := agentClient(sharedDir).Do(request)
	if err != nil {
		return "", fmt.Errorf("ask agent to connect: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1024))
	if err != nil {
		return "", fmt.Errorf("read agent's answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("connect from the machine: %s", strings.TrimSpace(string(text)))
	}
	return string(text), nil
}
