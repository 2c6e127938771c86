package egress

import (
	"bytes"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

// A connection that the host has no means for is refused at once, as by a busy
// host, and the log says so once.
func TestShortageIsARefusal(t *testing.T) {
	for errno, want := range map[syscall.Errno]datapath.Refusal{
		syscall.EMFILE: datapath.Refused, syscall.ENFILE: datapath.Refused, syscall.ENOBUFS: datapath.Refused,
		syscall.ENOMEM: datapath.Refused, syscall.EADDRNOTAVAIL: datapath.NetUnreachable,
	} {
		var log bytes.Buffer
		e, _ := newEgress(t, func(c *Config) {
			c.Dialer, c.Log = failing(errno), slog.New(slog.NewTextHandler(&log, nil))
		})
		for range 10 {
			_, err := e.OpenTCP(t.Context(), flowTo(portolan.TCP, at(here4, 80)))
			if err == nil || datapath.Classify(err) != want {
				t.Errorf("%v: %v is shown as %d, want %d", errno, err, datapath.Classify(err), want)
			}
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("%v: %d warnings, want 1:\n%s", errno, n, &log)
		}
	}
}
