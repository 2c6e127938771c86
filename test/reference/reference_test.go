// Package reference runs the examples of five documents about Docker's
// networking, in which users learn what to expect, against Portolan in the
// lab. The documents are in Chinese, English and Japanese:
//
//	000  Docker Desktop's networking manual
//	001  networking features in Docker for Mac
//	002  the same, another edition
//	003  notes on docker networking: networks, names, port mapping, links
//	004  notes on network connections and published ports
//
// Each example says which documents and headings it is from, and what it
// checks.
package reference

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// example is what one or more documents promise about a command.
type example struct {
	command string   // as the documents write it
	from    []string // document number and heading
	checks  string   // in our words
	run     func(t *testing.T, s *stage.Stage)
}

func TestReference(t *testing.T) {
	s := stage.Up(t)
	loadImages(t, s)
	for _, examples := range [][]example{publishing(), portQueries(), hostAccess(), hostNetworking(), networks(), links(), limitations(), sshAgent()} {
		for _, e := range examples {
			t.Run(e.from[0]+": "+e.command, func(t *testing.T) {
				t.Logf("%s: %s", strings.Join(e.from, "; "), e.checks)
				e.run(t, s)
			})
		}
	}
}

// address joins an IP address and a port.
func address(ip string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(ip), port).String()
}

// running starts a container with arguments of `docker run -d` and returns its
// ID when it writes ready to its log. It goes when the test ends.
func running(t *testing.T, s *stage.Stage, ready string, args ...string) string {
	t.Helper()
	id := s.Docker(t, append([]string{"run", "-d"}, args...)...)
	t.Cleanup(func() { s.Docker(t, "rm", "-f", id) })
	stage.Eventually(t, 10*time.Second, "the container serves", func() bool {
		out, _ := s.TryDocker(t, "logs", id)
		return strings.Contains(out, ready)
	})
	return id
}

// nginx runs nginx with flags of `docker run -d`, webapp the web server on port
// 5000, alpine an idle shell.
func nginx(t *testing.T, s *stage.Stage, flags ...string) string {
	t.Helper()
	return running(t, s, "start worker process ", append(flags, "nginx")...)
}

func webapp(t *testing.T, s *stage.Stage, flags ...string) string {
	t.Helper()
	return running(t, s, "listening", append(flags, "training/webapp", "web", "-addr", ":5000")...)
}

func alpine(t *testing.T, s *stage.Stage, name string, flags ...string) {
	t.Helper()
	running(t, s, "", append(append([]string{"-it", "--name", name}, flags...), "alpine", "ash")...)
}

// welcomes checks that nginx answers at each address.
func welcomes(t *testing.T, s *stage.Stage, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		if got, err := stage.Fetch(t, s.Lab.Host, addr, "/"); err != nil || !strings.Contains(got, "Welcome to nginx") {
			t.Errorf("http://%s/ on the host is %q (%v), want nginx", addr, got, err)
		}
	}
}

// answers checks that some web server of a container answers the node.
func answers(t *testing.T, node *lab.Node, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		if _, err := stage.Fetch(t, node, addr, "/ip"); err != nil {
			t.Errorf("http://%s/ip from the %s: %v", addr, node.Name, err)
		}
	}
}

// refuses checks that nothing listens there.
func refuses(t *testing.T, node *lab.Node, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		if got, err := stage.Fetch(t, node, addr, "/ip"); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("http://%s/ip from the %s is %q (%v), want it refused", addr, node.Name, got, err)
		}
	}
}
