package reference

import (
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// hostNetworking are the examples of the host network driver.
func hostNetworking() []example {
	heading := []string{"003 Host Network ??"}
	return []example{
		{
			"docker run --network host nginx", heading,
			"what the container binds is on the host's own addresses, port 80, without -p, and gone with the container",
			func(t *testing.T, s *stage.Stage) {
				id := nginx(t, s, "--network", "host")
				addrs := []string{"127.0.0.1:80", lab.HostV4 + ":80"}
				for _, addr := range addrs {
					stage.Eventually(t, 10*time.Second, "nginx answers at "+addr, func() bool {
						_, err := stage.Fetch(t, s.Lab.Host, addr, "/")
						return err == nil
					})
				}
				welcomes(t, s, addrs...)
				s.Docker(t, "stop", "-t", "1", id)
				stage.Eventually(t, 10*time.Second, "the port goes with the container", func() bool {
					_, err := stage.Fetch(t, s.Lab.Host, addrs[0], "/")
					return err != nil
				})
			},
		},
		{
			"connect to the localhost of the machine from a container", heading,
			"a container on the host network reaches the host's database at localhost; one on a bridge does not",
			func(t *testing.T, s *stage.Stage) {
				s.Lab.StartWeb(t, s.Lab.Host, "127.0.0.1:3306")
				alpine(t, s, "app", "--network", "host")
				var got testimage.Result
				stage.Eventually(t, 10*time.Second, "the host's service answers at localhost", func() bool {
					got = s.Exec(t, "app", "get", "http://localhost:3306/")
					return got.Outcome == testimage.OK && strings.Contains(got.Body, "hello")
				})
				alpine(t, s, "bridged")
				if got := s.Exec(t, "bridged", "get", "http://127.0.0.1:3306/"); got.Outcome != testimage.Refused {
					t.Errorf("from a bridge: %+v, want it refused", got)
				}
			},
		},
	}
}
