package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
)

func TestQuote(t *testing.T) {
	for _, c := range []struct{ value, posix, fish string }{
		{"unix:///run/x.sock", "unix:///run/x.sock", "unix:///run/x.sock"},
		{"", "''", "''"},
		{"a b", "'a b'", "'a b'"},
		{"it's", `'it'\''s'`, `'it\'s'`},
		{`$(reboot)\`, `'$(reboot)\'`, `'$(reboot)\\'`},
	} {
		if got := posixQuote(c.value); got != c.posix {
			t.Errorf("posixQuote(%q) = %s, want %s", c.value, got, c.posix)
		}
		if got := fishQuote(c.value); got != c.fish {
			t.Errorf("fishQuote(%q) = %s, want %s", c.value, got, c.fish)
		}
	}
}

func TestSlips(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"purge", "purge", 0}, {"prge", "purge", 1}, {"puge", "purge", 1}, {"porge", "purge", 1}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}} {
		if got := slips(c.a, c.b); got != c.want {
			t.Errorf("slips(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestParseMounts(t *testing.T) {
	const text = `20 1 0:5 / / rw - ext4 /dev/sda rw
30 20 0:6 / /var/lib/portolan/default/engine rw - tmpfs tmpfs rw
31 30 0:7 / /var/lib/portolan/default/engine/a\040b rw - overlay overlay rw
32 20 0:8 / /var/lib/portolan/default2 rw - tmpfs tmpfs rw
short line
`
	got := parseMounts(text, "/var/lib/portolan/default")
	want := []string{"/var/lib/portolan/default/engine/a b", "/var/lib/portolan/default/engine"}
	if !slices.Equal(got, want) {
		t.Errorf("parseMounts = %q, want %q", got, want)
	}
}

func TestPurgeRefuses(t *testing.T) {
	dir := t.TempDir()
	keep := filepath.Join(dir, "keep")
	if err := os.Mkdir(keep, 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "linked")
	if err := os.Symlink(keep, link); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]profile.Profile{
		"another directory": {Name: "default", StateDir: keep},
		"a symbolic link":   {Name: "linked", StateDir: link},
	} {
		if err := purgeState(p, os.RemoveAll); err == nil || !strings.Contains(err.Error(), "by hand") {
			t.Errorf("%s: purgeState = %v", name, err)
		}
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error(err)
	}
	if err := purgeState(profile.Profile{Name: "none", StateDir: filepath.Join(dir, "none")}, os.RemoveAll); err != nil {
		t.Errorf("purgeState of nothing = %v", err)
	}
}

func TestAge(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		1200 * time.Millisecond: "1s", 90 * time.Second: "2m", 26*time.Hour + 5*time.Minute: "1d2h", 61 * time.Minute: "1h1m", -time.Second: "0s",
	} {
		if got := age(now, now.Add(-d)); got != want {
			t.Errorf("age of %s = %s, want %s", d, got, want)
		}
	}
	if got := age(now, time.Time{}); got != "?" {
		t.Errorf("age of no time = %s", got)
	}
}

func TestPrintStatus(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var out strings.Builder
	g := &global{Program: &Program{Out: &out}}
	var tcp portolan.Proto = portolan.TCP
	port := portolan.Binding{Proto: tcp}
	g.printStatus(api.Status{
		Profile: "default", State: api.Degraded, DockerHost: "unix:///run/d.sock", Context: "portolan", Link: portolan.DefaultLink(),
		Daemon: api.Process{PID: 7, Since: now.Add(-time.Hour)}, Machine: api.Process{PID: 9},
		Engine:   api.Engine{Version: "29.1", Source: "bundled", Ready: true, Containers: 2, Restarts: 1, LastExit: "signal: killed"},
		Ports:    []api.Port{{Binding: port}, {Binding: port, Error: "address already in use"}},
		Problems: []string{"dockerd was restarted: portolan logs"},
	}, now)
	const want = `profile  default
state    degraded
docker   --context portolan, or DOCKER_HOST=unix:///run/d.sock
engine   29.1 (bundled), 2 containers run, restarted 1 times, last: signal: killed
network  192.168.65.0/24, fdc4:f303:9324::/64
daemon   pid 7, up 1h0m
machine  pid 9, up ?
ports    tcp invalid AddrPort -> invalid AddrPort
         tcp invalid AddrPort -> invalid AddrPort  FAILED: address already in use
problem  dockerd was restarted: portolan logs
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

// On a terminal a step's line is replaced by its result, and no line is left
// open.
func TestProgressOnATerminal(t *testing.T) {
	var out strings.Builder
	p := &progress{out: &out, terminal: true}
	p.step(api.Step{Name: "machine"})
	p.step(api.Step{Name: "machine", Done: true, Took: 250 * time.Millisecond})
	p.step(api.Step{Name: "engine ready"})
	p.step(api.Step{Name: "ready", Error: "boom"})
	p.end()
	want := "  machine ...\r\x1b[K  machine" + strings.Repeat(" ", 37) + "  0.25 s\n  engine ready ...\n"
	if out.String() != want {
		t.Errorf("wrote %q, want %q", out.String(), want)
	}
}

// Whatever is mounted: nothing outside of the directory is found.
func FuzzParseMounts(f *testing.F) {
	f.Add(`36 35 98:0 /m /state/default/a\040b rw - ext4 /dev/x rw`, "/state/default")
	f.Add("1 2 3 4 /state/defaults\n1 2 3 4 /state/default\n1 2", "/state/default")
	f.Fuzz(func(t *testing.T, mountinfo, dir string) {
		for _, point := range parseMounts(mountinfo, dir) {
			if point != dir && !strings.HasPrefix(point, dir+"/") {
				t.Errorf("below %q: %q", dir, point)
			}
		}
	})
}
