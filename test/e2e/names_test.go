package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// hostNamesAddr is where the host asks for names of containers.
const hostNamesAddr = "127.0.0.1:5399"

// named bounds how long a change may take to be seen: five times a second.
const named = 5 * time.Second

// The host knows containers by their names, while they run, and nobody else does.
func TestNamesOfContainers(t *testing.T) {
	s := stage.Up(t)
	s.Docker(t, "network", "create", "--ipv6", "mine")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "mine") })
	addresses := func(container, network string) []string {
		t.Helper()
		got := strings.Fields(s.Docker(t, "inspect", "-f",
			`{{with index .NetworkSettings.Networks "`+network+`"}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}`, container))
		slices.Sort(got)
		return got
	}
	ask := func(name string) (answers []string, outcome testimage.Outcome) {
		t.Helper()
		for _, qtype := range []string{"A", "AAAA"} {
			got := s.HostToolbox(t, "lookup", name+".portolan.internal", qtype, "-server", hostNamesAddr)
			for _, answer := range got.Answers {
				answers = append(answers, strings.TrimPrefix(answer, qtype+" "))
			}
			if outcome = got.Outcome; outcome == testimage.NoName {
				return nil, outcome
			}
		}
		slices.Sort(answers)
		return answers, outcome
	}
	become := func(name string, want ...string) {
		t.Helper()
		slices.Sort(want)
		var last []string
		end := time.Now().Add(named)
		for {
			answers, outcome := ask(name)
			if last = answers; slices.Equal(answers, want) && (len(want) > 0 || outcome == testimage.NoName) {
				return
			}
			if time.Now().After(end) {
				t.Errorf("%s is %v after %s, want %v", name, last, named, want)
				return
			}
		}
	}
	become("web")
	s.Docker(t, "run", "-d", "--name", "web", "--network", "mine", "--network-alias", "shop", testimage.Name, "sleep", "1h")
	t.Cleanup(func() { s.TryDocker(t, "rm", "-f", "web", "www") })
	inContainer(t, s, "plain")
	own := addresses("web", "mine")
	if len(own) != 2 {
		t.Fatalf("web has the addresses %v, want one of each family", own)
	}
	become("web", own...)
	become("WEB", own...)
	become("shop", own...)
	become("plain", addresses("plain", "bridge")...)

	s.Docker(t, "network", "connect", "bridge", "web")
	become("web", slices.Concat(own, addresses("web", "bridge"))...)
	become("shop", own...) // the alias is one of the other network
	s.Docker(t, "rename", "web", "www")
	become("www", slices.Concat(own, addresses("www", "bridge"))...)
	become("web")
	s.Docker(t, "network", "disconnect", "bridge", "www")
	become("www", own...)
	s.Docker(t, "stop", "-t", "0", "www")
	become("www")
	become("shop")
	s.Docker(t, "start", "www")
	become("www", addresses("www", "mine")...)

	t.Run("other names are refused", func(t *testing.T) {
		got := s.HostToolbox(t, "lookup", "web.internet.test", "A", "-server", hostNamesAddr)
		if got.Outcome != testimage.Prohibited {
			t.Errorf("%+v, want refused", got)
		}
	})
	t.Run("containers can not ask", func(t *testing.T) {
		for _, way := range [][]string{nil, {"-tcp"}} {
			got := s.Exec(t, "plain", append([]string{"lookup", "www.portolan.internal", "A", "-server", "192.168.65.254:5399", "-timeout", "2s"}, way...)...)
			if got.Outcome != testimage.Refused {
				t.Errorf("%v: %+v, want refused", way, got)
			}
		}
		if got := s.Exec(t, "plain", "lookup", "www.portolan.internal", "A"); len(got.Answers) != 0 {
			t.Errorf("%+v, want nothing", got)
		}
	})
	t.Run("another place", func(t *testing.T) {
		const other = "127.0.0.1:5353"
		asked := func(server, from string) testimage.Outcome {
			words := []string{"lookup", "www.portolan.internal", "A", "-server", server, "-timeout", "2s"}
			if from != "" {
				return s.Exec(t, from, words...).Outcome
			}
			return s.HostToolbox(t, words...).Outcome
		}
		s.Portolan(t, "settings", "set", "portolan.hostNames", other)
		stage.Eventually(t, named, "names are told elsewhere", func() bool { return asked(other, "") == testimage.OK })
		if got := asked(hostNamesAddr, ""); got != testimage.Refused {
			t.Errorf("where they were told before: %s, want refused", got)
		}
		if got := asked("192.168.65.254:5353", "plain"); got != testimage.Refused {
			t.Errorf("a container there: %s, want refused", got)
		}
		s.Portolan(t, "settings", "set", "portolan.hostNames", "")
		stage.Eventually(t, named, "names are told nowhere", func() bool { return asked(other, "") == testimage.Refused })
		s.Portolan(t, "settings", "unset", "portolan.hostNames")
		become("www", addresses("www", "mine")...)
		if out := s.Portolan(t, "dns", "query", "www.portolan.internal"); !strings.Contains(out, "gives to this host, not to containers") {
			t.Errorf("dns query says %s", out)
		}
	})
	t.Run("nobody else can ask", func(t *testing.T) {
		neighbour := onNode(t, s, s.Lab.Neighbour)
		got := neighbour.run(t, "lookup www.portolan.internal A -tcp -timeout 2s -server "+hostPort(lab.HostV4, 5399))
		if got.Outcome != testimage.Refused {
			t.Errorf("%+v, want refused", got)
		}
	})
	t.Run("dns query", func(t *testing.T) { checkDNSQuery(t, s) })
}

// checkDNSQuery asks how names are answered.
func checkDNSQuery(t *testing.T, s *stage.Stage) {
	query := func(args ...string) (a api.DNSAnswer) {
		t.Helper()
		text := s.Portolan(t, append([]string{"dns", "query", "--json"}, args...)...)
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return a
	}
	setHosts(t, s, "203.0.113.9 printer.lab\n")
	stage.Eventually(t, followed, "the new hosts file is read", func() bool { return query("printer.lab").Source == "hosts" })
	for _, c := range []struct {
		name, qtype, rcode, source, record string
	}{
		{"host.docker.internal", "A", "NOERROR", "portolan", "host.docker.internal. 0 IN A 192.168.65.254"},
		{"v4only.internet.test", "A", "NOERROR", "resolver", "v4only.internet.test. 60 IN A " + lab.WebV4},
		{"nobody.internet.test", "MX", "NXDOMAIN", "resolver", ""},
		{"nobody.internet.test", "MX", "NXDOMAIN", "cache", ""},
	} {
		got := query(c.name, c.qtype)
		if got.Rcode != c.rcode || got.Source != c.source || strings.Join(got.Records, "|") != c.record {
			t.Errorf("%s %s is %+v, want %+v", c.name, c.qtype, got, c)
		}
		known := c.source == "resolver" || c.source == "cache"
		if known != (got.Server != nil) || known && got.Server.String() != lab.DNSV4+":53" {
			t.Errorf("%s %s is from %v", c.name, c.qtype, got.Server)
		}
		if known != (got.File == "/etc/resolv.conf" && len(got.Lines) == 1) || (c.source == "cache") != (got.Left > 0) {
			t.Errorf("%s %s is from %s %v, kept for %s", c.name, c.qtype, got.File, got.Lines, got.Left)
		}
	}
	says := func(command string, parts ...string) {
		t.Helper()
		text := s.Portolan(t, strings.Fields("dns query "+command)...)
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("dns query %s for people has no %q:\n%s", command, part, text)
			}
		}
	}
	says("v4only.internet.test", "from the cache: resolver "+lab.DNSV4+":53 (/etc/resolv.conf, line ", "kept for ", lab.WebV4)
	says("printer.lab", "from this host's /etc/hosts, line ", "203.0.113.9")
	checkHiddenBecause(t, s, says)
	setResolvers(t, s, lab.EmptyV4)
	stage.Eventually(t, followed, "the new resolv.conf is read", func() bool { return query("v4only.internet.test").Source == "nobody" })
	if out, code := s.TryPortolan(t, "dns", "query", "v4only.internet.test"); code != 1 || !strings.Contains(out, lab.EmptyV4) {
		t.Errorf("without a resolver: exit code %d\n%s", code, out)
	}
	for _, wrong := range [][]string{{"a..b"}, {"internet.test", "NOTYPE"}} {
		if out, code := s.TryPortolan(t, append([]string{"dns", "query"}, wrong...)...); code != 1 || !strings.Contains(out, "query") {
			t.Errorf("%v: exit code %d\n%s", wrong, code, out)
		}
	}
	if out, code := s.TryPortolan(t, "dns", "query"); code != 2 {
		t.Errorf("without a name: exit code %d\n%s", code, out)
	}
}

// checkHiddenBecause: the reason is the setting that hides, or what the host lacks.
func checkHiddenBecause(t *testing.T, s *stage.Stage, says func(command string, parts ...string)) {
	t.Helper()
	const record = "hidden: v6only.internet.test. "
	s.Portolan(t, "settings", "set", "dnsInhibition", "ipv6")
	says("v6only.internet.test AAAA", record, "hidden because dnsInhibition is ipv6")
	s.Portolan(t, "settings", "unset", "dnsInhibition")
	s.Lab.Host.Run(t, "ip", "-6", "route", "add", "unreachable", "default", "metric", "1")
	defer s.Lab.Host.Run(t, "ip", "-6", "route", "del", "unreachable", "default", "metric", "1")
	stage.Eventually(t, followed, "IPv6 is hidden", func() bool {
		return strings.Contains(s.Portolan(t, "dns", "query", "v6only.internet.test", "AAAA"), record)
	})
	says("v6only.internet.test AAAA", record, "hidden because dnsInhibition is auto, and this host has had no route to the internet over IPv6 for ")
}
