package lab

import (
	"strings"
	"testing"
)

func TestHostReachesInternet(t *testing.T) {
	l := New(t)
	l.StartInternet(t)
	for _, c := range []struct{ url, want string }{
		{"http://" + WebV4 + "/ip", HostV4},
		{"http://[" + WebV6 + "]/ip", HostV6},
	} {
		got := strings.TrimSpace(l.Host.Run(t, "curl", "-sS", "-m", "5", c.url))
		if got != c.want {
			t.Errorf("%s says %q, want %q", c.url, got, c.want)
		}
	}
}
