package cli

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/portolan"
)

func TestParsePort(t *testing.T) {
	for text, want := range map[string]api.PortRequest{
		"8080:80":               {Proto: portolan.TCP, HostPort: 8080, Port: 80},
		"8080:80/udp":           {Proto: portolan.UDP, HostPort: 8080, Port: 80},
		"127.0.0.1:8080:80/TCP": {Proto: portolan.TCP, Host: netip.MustParseAddr("127.0.0.1"), HostPort: 8080, Port: 80},
		"[::1]:8080:80":         {Proto: portolan.TCP, Host: netip.IPv6Loopback(), HostPort: 8080, Port: 80},
	} {
		if got, err := parsePort(text, true); err != nil || got != want {
			t.Errorf("parsePort(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
	if got, err := parsePort("127.0.0.1:8080", false); err != nil || got.HostPort != 8080 || got.Port != 0 || !got.Host.IsLoopback() {
		t.Errorf("a port to remove = %+v, %v", got, err)
	}
	for _, text := range []string{"", "80", "80:", ":80", "0:80", "70000:80", "8080:80/sctp", "8080:80/icmp", "host.name:8080:80", "[::1:8080:80", "1:2:3", "127.0.0.1::80"} {
		got, err := parsePort(text, true)
		if _, ok := errors.AsType[usageError](err); !ok {
			t.Errorf("parsePort(%q) = %+v, %v; want a usage error", text, got, err)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1500: "1.5 KB", 2_000_000: "2.0 MB", 3e15: "3000.0 TB"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
}
