package stage

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
)

// clientTimeout bounds what Fetch and Ask wait for.
const clientTimeout = 10 * time.Second

// Fetch gets path from the web server at addr, "ip:port", as a program on the
// node would, over a new connection. A status that is not 200 is an error.
func Fetch(t testing.TB, node *lab.Node, addr, path string) (string, error) {
	t.Helper()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return node.Dial(ctx, network, addr)
		},
	}
	ctx, cancel := context.WithTimeout(t.Context(), clientTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return "", err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s", path, response.Status)
	}
	return strings.TrimSpace(string(body)), err
}

// Ask sends one datagram from the node to the UDP server at addr and returns
// the answer.
func Ask(t testing.TB, node *lab.Node, addr, question string) (string, error) {
	t.Helper()
	conn, err := node.Dial(t.Context(), "udp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(clientTimeout)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte(question)); err != nil {
		return "", err
	}
	answer := make([]byte, 1<<16)
	n, err := conn.Read(answer)
	return strings.TrimSpace(string(answer[:n])), err
}
