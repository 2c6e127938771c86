package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/proxy"
	"github.com/portolan-net/portolan/internal/relay"
)

// Requests under way end with the address that they were sent from, before the
// answer and within it; the client's next one is sent anew.
func TestRequestOfLostAddress(t *testing.T) {
	origin := startOrigin(t)
	stuck := serve(t, func(ctx context.Context, conn *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil { // an answer to nothing is an error
			t.Error(err)
		}
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
		<-ctx.Done()
	})
	b := newBench(t, proxy.Config{}, "")
	b.put("web.example", "198.51.100.1:80", origin)
	b.put("stuck.example", "198.51.100.2:80", stuck)
	c := proxyClient(t, b.forward(containerAddr))
	c.Timeout = 10 * time.Second

	ended := endSoon(t)
	code, text := get(t, c, "http://web.example/never")
	if <-ended; code != http.StatusBadGateway || !strings.Contains(text, errAddressLost.Error()) {
		t.Errorf("before its answer: %d %s", code, text)
	}
	response, err := c.Get("http://stuck.example/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	ended = endSoon(t)
	body, err := io.ReadAll(response.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || string(body) != "half" {
		t.Errorf("within its answer: %q, %v", body, err)
	}
	<-ended
	if code, text := get(t, c, "http://web.example/"); code != http.StatusOK {
		t.Errorf("afterwards: %d %s", code, text)
	}
}

// endSoon has this host lose 127.0.0.1 as soon as a request is under way from there.
func endSoon(t *testing.T) <-chan struct{} {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for began := time.Now(); relay.ResetFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1})) == 0; time.Sleep(10 * time.Millisecond) {
			if time.Since(began) > 5*time.Second {
				t.Error("nothing is under way from 127.0.0.1")
				return
			}
		}
	}()
	return ended
}
