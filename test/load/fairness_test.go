// Package load shows that what many connections need is shared out: one
// container's flood does not stop another, nor do thousands of idle flows, and a
// shortage passes. Machines are real; figures are printed, and asserted at five
// times what they should be.
package load

import (
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// fairConnect is five times the 100 ms within which 99 of 100 connects of a
// container shall stand while another one does what it can.
const fairConnect = 500 // ms

const web = lab.WebV4 + ":80"

// One container floods; another one, on a network of its own, connects as ever.
func TestFairness(t *testing.T) {
	s := stage.Up(t)
	s.Docker(t, "network", "create", "quiet")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "quiet") })
	s.Docker(t, "run", "-d", "--name", "victim", "--network", "quiet", testimage.Name, "sleep", "1h")
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "victim") })
	measure := func(t *testing.T) testimage.Result {
		t.Helper()
		return s.Exec(t, "victim", "connect-times", web, "-count", "200")
	}
	alone := measure(t)
	t.Logf("alone: p50 %.1f ms, p99 %.1f ms", alone.P50, alone.P99)
	subnet := s.Docker(t, "network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "bridge")
	for _, flood := range []struct {
		name   string
		args   []string
		silent bool // no connect may stand
	}{
		{"1,000 dials into a black hole", []string{"churn", "-once", "-workers", "1000", lab.BlackHoleV4 + ":80"}, true},
		{"connections as fast as it can", []string{"churn", "-workers", "64", web}, false},
		{"50,000 SYN/s", []string{"flood-syn", web}, false},
		{"50,000 SYN/s into a black hole", []string{"flood-syn", lab.BlackHoleV4 + ":80"}, false},
		{"50,000 SYN/s of forged sources", []string{"flood-syn", "-from", subnet, lab.BlackHoleV4 + ":80"}, false},
	} {
		t.Run(flood.name, func(t *testing.T) {
			s.Docker(t, append([]string{"run", "-d", "--name", "flood", testimage.Name}, flood.args...)...)
			defer s.Docker(t, "rm", "-f", "flood")
			time.Sleep(time.Second) // the flood shall be in full flow
			got := measure(t)
			s.Docker(t, "stop", "flood")
			sent, err := testimage.Parse([]byte(s.Docker(t, "logs", "flood")))
			if err != nil || sent.Elapsed == 0 {
				t.Fatalf("the flood says %+v, %v", sent, err)
			}
			t.Logf("p50 %.1f ms, p99 %.1f ms, while %d came in %d ms", got.P50, got.P99, sent.Count, sent.Elapsed)
			if got.Outcome != testimage.OK || got.P99 > fairConnect {
				t.Errorf("%+v, want p99 under %d ms", got, fairConnect)
			}
			if sent.Count == 0 && !flood.silent {
				t.Error("nothing came")
			}
		})
	}
}
