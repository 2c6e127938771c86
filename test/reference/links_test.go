package reference

import (
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// links are the examples of --link on the default bridge.
func links() []example {
	across := []string{"003 Container Link (LEGACY) ?? (Communication across links)"}
	return []example{
		{
			"docker run -d -P --name web --link db:db training/webapp python app.py", across,
			"a link works one way: web knows db by name and reaches it, although db publishes nothing; db does not know web",
			func(t *testing.T, s *stage.Stage) {
				alpine(t, s, "db")
				webapp(t, s, "-P", "--name", "web", "--link", "db:db")
				ip := addressOn(t, s, "db", "bridge")
				resolves(t, s, "web", "db", ip)
				reaches(t, s, "web", ip, testimage.OK)
				unknown(t, s, "db", "web")
			},
		},
		{
			"docker run -it --rm --name web --link db:mydb alpine cat /etc/hosts", across,
			"a link is a line in the recipient's /etc/hosts with the alias, the ID and the name of the source",
			func(t *testing.T, s *stage.Stage) {
				alpine(t, s, "db")
				hosts := s.Docker(t, "run", "--rm", "--name", "web", "--link", "db:mydb", "alpine", "cat", "/etc/hosts")
				id := s.Docker(t, "inspect", "-f", "{{.Config.Hostname}}", "db")
				want := strings.Join([]string{addressOn(t, s, "db", "bridge"), "mydb", id, "db"}, " ")
				if !strings.Contains(strings.Join(strings.Fields(hosts), " "), want) {
					t.Errorf("no %q in /etc/hosts:\n%s", want, hosts)
				}
			},
		},
	}
}
