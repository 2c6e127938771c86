package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// The resolver's addresses in the machine.
const (
	resolverV4 = "192.168.65.7"
	resolverV6 = "fdc4:f303:9324::7"
)

// ways are the flags of lookup for each way to the resolver.
func ways() []string {
	return []string{
		"-server " + resolverV4, "-server " + resolverV4 + " -tcp",
		"-server " + resolverV6, "-server " + resolverV6 + " -tcp",
	}
}

const (
	// followed bounds how long a change of the host's files may take to be
	// seen: five times the second that package system promises.
	followed = 5 * time.Second
	// hedged bounds the answer of the second resolver when the first is silent:
	// five times the second after which package dns asks it.
	hedged = 5 * time.Second
	// givenUp bounds the SERVFAIL for silent resolvers: five times the 1.8 s
	// after which package dns gives the last of them up.
	givenUp = 9 * time.Second
)

// A container's names are the host's names.
func TestDNS(t *testing.T) {
	s := stage.Up(t)
	s.Docker(t, "network", "create", "mine")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "mine") })
	host := onNode(t, s, s.Lab.Host)
	bridge := inContainer(t, s, "bridge")
	mine := inContainer(t, s, "mine", "--network", "mine")

	t.Run("every record as the host's resolver has it", func(t *testing.T) { checkRecords(t, bridge, host) })
	t.Run("through the engine's resolver", func(t *testing.T) { checkEngineResolver(t, mine, host) })
	t.Run("our own names", func(t *testing.T) { checkOwnNames(t, bridge, mine) })
	t.Run("other ports are refused", func(t *testing.T) { checkGatewayPorts(t, bridge) })
	t.Run("hosts file", func(t *testing.T) { checkHostsFile(t, s, bridge) })
	t.Run("resolv.conf", func(t *testing.T) { checkResolvConf(t, s, bridge, mine) })
	t.Run("a resolver on the host", func(t *testing.T) { checkStub(t, s, bridge, mine) })
	t.Run("a resolver is down", func(t *testing.T) { checkDownResolver(t, s, bridge) })
}

// question is one lookup and how it must end.
type question struct {
	text string // name and type
	want testimage.Outcome
}

func questions() []question {
	return []question{
		{"web.internet.test A", testimage.OK},
		{"web.internet.test AAAA", testimage.OK},
		{"WeB.iNTERnet.TesT A", testimage.OK}, // letters come back as they went
		{"alias.internet.test A", testimage.OK},
		{"alias.internet.test CNAME", testimage.OK},
		{"internet.test MX", testimage.OK},
		{"internet.test NS", testimage.OK},
		{"internet.test SOA", testimage.OK},
		{"internet.test TYPE255", testimage.OK}, // ANY
		{"txt.internet.test TXT", testimage.OK},
		{"_http._tcp.internet.test SRV", testimage.OK},
		{"https.internet.test HTTPS", testimage.OK},
		{"unknown.internet.test TYPE65280", testimage.OK},
		{"big.internet.test TXT", testimage.OK},
		{"v4only.internet.test AAAA", testimage.NoData},
		{"nobody.internet.test A", testimage.NoName},
		{"www.elsewhere.test A", testimage.Prohibited}, // REFUSED
		{"servfail.internet.test A", testimage.ServFail},
	}
}

// checkRecords compares answers byte for byte, but for the id and for TTLs, which
// run down in our cache, with those that a program on the host gets from the lab's
// server.
func checkRecords(t *testing.T, from, host place) {
	t.Helper()
	for _, way := range ways() {
		for _, size := range []string{"0", "1232", "8192"} {
			var ours, direct []string
			for _, q := range questions() {
				lookup := "lookup " + q.text + " -bufsize " + size
				ours = append(ours, lookup+" "+way)
				direct = append(direct, lookup+" -server "+lab.DNSV4+strings.TrimPrefix(way, strings.Join(strings.Fields(way)[:2], " ")))
			}
			got, want := from.each(t, ours), host.each(t, direct)
			for i, q := range questions() {
				if want[i].Outcome != q.want || want[i].SHA256 == "" {
					t.Errorf("%s is %+v, want %s", direct[i], want[i], q.want)
				}
				if got[i].Outcome != want[i].Outcome || got[i].SHA256 != want[i].SHA256 || got[i].Bytes != want[i].Bytes {
					t.Errorf("%s is %+v, on the host %+v", ours[i], got[i], want[i])
				}
				// With less room than 6,000 bytes the answer comes cut, and whole over TCP.
				cut := strings.HasPrefix(q.text, "big") && size != "8192" && !strings.Contains(way, "-tcp")
				if got[i].Truncated != cut || want[i].Truncated != cut {
					t.Errorf("%s: truncated is %v, on the host %v, want %v", ours[i], got[i].Truncated, want[i].Truncated, cut)
				}
			}
		}
	}
}

// checkEngineResolver asks 127.0.0.11, which containers of user-defined
// networks have, and which asks ours. It writes messages anew, so records are
// compared, and it makes SERVFAIL of REFUSED (resolver.go in
// daemon/libnetwork of moby).
func checkEngineResolver(t *testing.T, from, host place) {
	t.Helper()
	var ours, direct []string
	for _, q := range questions() {
		ours = append(ours, "lookup "+q.text)
		direct = append(direct, "lookup "+q.text+" -server "+lab.DNSV4)
	}
	want := host.each(t, direct)
	for i, got := range from.each(t, ours) {
		if got.Remote != "127.0.0.11:53" {
			t.Fatalf("%s asked %s, want the engine's resolver", ours[i], got.Remote)
		}
		outcome := want[i].Outcome
		if outcome == testimage.Prohibited {
			outcome = testimage.ServFail
		}
		if got.Outcome != outcome || !slices.Equal(got.Answers, want[i].Answers) {
			t.Errorf("%s is %+v, on the host %+v", ours[i], got, want[i])
		}
	}
}

// checkOwnNames asks for the names that Portolan gives.
func checkOwnNames(t *testing.T, bridge, mine place) {
	t.Helper()
	for _, name := range []struct{ name, v4, v6 string }{
		{"host.docker.internal", "192.168.65.254", "fdc4:f303:9324::254"},
		{"gateway.docker.internal", "192.168.65.1", "fdc4:f303:9324::1"},
		{"vm.docker.internal", "192.168.65.3", "fdc4:f303:9324::3"},
	} {
		var commands []string
		for _, way := range append(ways(), "") {
			commands = append(commands, "lookup "+name.name+" A "+way, "lookup "+name.name+" AAAA "+way)
		}
		for from, place := range map[string]place{"default bridge": bridge, "user-defined network": mine} {
			for i, got := range place.each(t, commands) {
				want := []string{"A " + name.v4, "AAAA " + name.v6}[i%2]
				if got.Outcome != testimage.OK || strings.Join(got.Answers, ",") != want {
					t.Errorf("%s, %s is %+v, want %s", from, commands[i], got, want)
				}
			}
			got := place.run(t, "lookup "+name.name)
			if slices.Sort(got.Answers); strings.Join(got.Answers, " ") != name.v4+" "+name.v6 {
				t.Errorf("%s, %s is %v, want %s and %s", from, name.name, got.Answers, name.v4, name.v6)
			}
		}
	}
}

// checkGatewayPorts tries ports of the gateway and of the resolver, where
// control endpoints of other products are, or were.
func checkGatewayPorts(t *testing.T, from place) {
	t.Helper()
	var commands []string
	for _, network := range []string{"tcp", "udp"} {
		for _, addr := range []string{"192.168.65.1", "fdc4:f303:9324::1", resolverV4, resolverV6} {
			for _, port := range []uint16{1, 22, 53, 80, 443, 2375, 15001, 65535} {
				if dns := addr == resolverV4 || addr == resolverV6; !dns || port != 53 {
					commands = append(commands, "dial "+network+" "+hostPort(addr, port))
				}
			}
		}
	}
	for i, got := range from.each(t, commands) {
		if got.Outcome != testimage.Refused || got.Duration() >= promptly {
			t.Errorf("%s: %+v, want refused at once", commands[i], got)
		}
	}
}

// checkHostsFile changes the host's /etc/hosts under running containers.
func checkHostsFile(t *testing.T, s *stage.Stage, from place) {
	t.Helper()
	answers := func(name string) string {
		got := from.run(t, "lookup "+name)
		slices.Sort(got.Answers)
		return strings.Join(got.Answers, " ")
	}
	if got, want := answers("neighbour.lab"), lab.NeighbourV4+" "+lab.NeighbourV6; got != want {
		t.Errorf("neighbour.lab is %q, want %q", got, want)
	}
	// The second name shadows one that the resolvers know; the third is the host.
	setHosts(t, s, "203.0.113.9 new.lab\n203.0.113.10 web.internet.test\n127.0.1.1 laptop\n")
	stage.Eventually(t, followed, "the new hosts file is read", func() bool { return answers("new.lab") == "203.0.113.9" })
	for name, want := range map[string]string{"web.internet.test": "203.0.113.10", "laptop": "192.168.65.254", "neighbour.lab": ""} {
		if got := answers(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// setFile writes a file of the host, and puts the former text back in the end.
func setFile(t *testing.T, s *stage.Stage, name string, set func(text string) error, text string) {
	t.Helper()
	before, err := os.ReadFile(filepath.Join(s.Lab.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set(string(before)); err != nil {
			t.Error(err)
		}
	})
	if err := set(text); err != nil {
		t.Fatal(err)
	}
}

func setHosts(t *testing.T, s *stage.Stage, text string) {
	t.Helper()
	setFile(t, s, "hosts", s.Lab.SetHosts, text)
}

func setResolvers(t *testing.T, s *stage.Stage, servers ...string) {
	t.Helper()
	setFile(t, s, "resolv.conf", s.Lab.SetResolvConf, "nameserver "+strings.Join(servers, "\nnameserver ")+"\n")
}

// askedOf reports whether server was asked for name.
func askedOf(server *lab.DNS, name string) bool {
	return slices.ContainsFunc(server.Queries(), func(q lab.Query) bool { return q.Name == name })
}

// checkResolvConf moves the host to other resolvers while containers run.
func checkResolvConf(t *testing.T, s *stage.Stage, places ...place) {
	t.Helper()
	follows := func(t *testing.T, label string, server *lab.DNS) {
		t.Helper()
		attempt := 0
		stage.Eventually(t, followed, "containers ask "+server.Addr.String(), func() bool {
			attempt++ // a name of its own for each try
			name := fmt.Sprintf("%s-%d.internet.test.", label, attempt)
			for _, from := range places {
				if got := from.run(t, "lookup "+name+" A"); got.Outcome != testimage.NoName {
					t.Fatalf("%s: %+v", name, got)
				}
			}
			return askedOf(server, name)
		})
		name := label + "-only.internet.test."
		for _, from := range places {
			from.run(t, "lookup "+name+" A")
		}
		for _, other := range slices.Concat(s.Internet.DNS[:], s.Internet.DNS2[:]) {
			if asked := askedOf(other, name); asked != (other == server) {
				t.Errorf("%s was asked: %v, want only %s", other.Addr, asked, server.Addr)
			}
		}
	}
	t.Run("written in place", func(t *testing.T) {
		setResolvers(t, s, lab.DNS2V4)
		follows(t, "second", s.Internet.DNS2[0])
		setResolvers(t, s, lab.DNSV6)
		follows(t, "six", s.Internet.DNS[1])
	})
	// The path leads to another file, as after a rename, which can't be done to
	// the lab's own file, a mount.
	t.Run("another file", func(t *testing.T) {
		other := filepath.Join(s.Lab.Dir, "resolv.conf.new")
		if err := os.WriteFile(other, []byte("nameserver "+lab.DNS2V6+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		s.Lab.Host.Run(t, "mount", "--bind", other, "/etc/resolv.conf")
		covered := true
		uncover := func() {
			if covered {
				covered = false
				if out, err := s.Lab.Host.Command(t.Context(), "umount", "/etc/resolv.conf").CombinedOutput(); err != nil {
					t.Errorf("umount: %v: %s", err, out)
				}
			}
		}
		defer uncover()
		follows(t, "covered", s.Internet.DNS2[1])
		uncover()
		follows(t, "uncovered", s.Internet.DNS[0])
	})
}

// stubFile is what systemd-resolved writes (/run/systemd/resolve/stub-resolv.conf):
// the program itself wants D-Bus and an init, so a server of the lab stands for it.
const stubFile = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch corp.test\n"

// checkStub names a resolver on the host's loopback, as systemd-resolved is, and
// lets it change its mind as that does when a VPN comes: the file stays the same.
func checkStub(t *testing.T, s *stage.Stage, places ...place) {
	t.Helper()
	setFile(t, s, "resolv.conf", s.Lab.SetResolvConf, stubFile)
	for _, addr := range []string{"203.0.113.31", "203.0.113.32"} {
		t.Run(addr, func(t *testing.T) {
			s.Lab.StartDNS(t, s.Lab.Host, "127.0.0.53:53", "split.corp.test. 600 IN A "+addr, "only"+addr+".corp.test. 600 IN A "+addr)
			for _, from := range places {
				stage.Eventually(t, followed, "the stub is asked", func() bool {
					return from.run(t, "lookup only"+addr+".corp.test A").Outcome == testimage.OK
				})
				if got := from.run(t, "lookup split.corp.test A"); strings.Join(got.Answers, " ") != "A "+addr {
					t.Errorf("split.corp.test is %+v, want %s", got, addr)
				}
			}
		})
	}
}

// checkDownResolver gives the host resolvers that are down.
func checkDownResolver(t *testing.T, s *stage.Stage, from place) {
	t.Helper()
	for i, c := range []struct {
		name    string
		servers []string
		want    testimage.Outcome
		limit   time.Duration
	}{
		{"one refuses", []string{lab.EmptyV4}, testimage.ServFail, promptly},
		{"one is unreachable", []string{lab.HostUnreachableV4}, testimage.ServFail, promptly},
		{"one is unreachable over IPv6", []string{lab.HostUnreachableV6}, testimage.ServFail, promptly},
		{"one's network is unreachable", []string{lab.NetUnreachableV4}, testimage.ServFail, promptly},
		{"one is silent", []string{lab.BlackHoleV4}, testimage.ServFail, givenUp},
		{"all are silent", []string{lab.BlackHoleV6, lab.BlackHoleV4}, testimage.ServFail, givenUp},
		{"the first refuses", []string{lab.EmptyV4, lab.DNS2V4}, testimage.OK, hedged},
		{"the first is silent", []string{lab.BlackHoleV4, lab.DNS2V4}, testimage.OK, hedged},
	} {
		t.Run(c.name, func(t *testing.T) {
			setResolvers(t, s, c.servers...)
			// Both files are read together, the hosts file last.
			mark := fmt.Sprintf("mark%d.lab", i)
			setHosts(t, s, "203.0.113.9 "+mark+"\n")
			stage.Eventually(t, followed, "the new resolv.conf is read", func() bool {
				return from.run(t, "lookup "+mark+" A").Outcome == testimage.OK
			})
			var commands []string
			for _, way := range ways() {
				commands = append(commands, "lookup web.internet.test A "+way)
			}
			for i, got := range from.together(t, commands) {
				if got.Outcome != c.want || got.Duration() >= c.limit {
					t.Errorf("%s: %+v, want %s within %s", commands[i], got, c.want, c.limit)
				}
			}
		})
	}
	t.Run("one name is never answered", func(t *testing.T) {
		if got := from.run(t, "lookup silent.internet.test A"); got.Outcome != testimage.ServFail || got.Duration() >= givenUp {
			t.Errorf("%+v, want SERVFAIL within %s", got, givenUp)
		}
	})
}
