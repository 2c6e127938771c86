package lab

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/portolan"
)

func TestSocketOwners(t *testing.T) {
	l := New(t)
	l.StartWeb(t, l.Internet, WebV4+":80")
	curl := l.Host.Command(t.Context(), "curl", "-sS", "http://"+WebV4+"/slow/1m")
	if err := curl.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = curl.Process.Kill()
		_ = curl.Wait()
	}()
	host, web := netip.AddrPortFrom(netip.MustParseAddr(HostV4), 0), netip.MustParseAddrPort(WebV4+":80")
	waitUntil(t, "curl holds its socket", func() bool {
		owners, err := l.Host.SocketOwners(portolan.TCP, host, web)
		return err == nil && slices.Equal(owners, []int{curl.Process.Pid})
	})
	socks, err := l.Host.SocketsOf(curl.Process.Pid)
	if err != nil || len(socks) != 1 || socks[0].Remote != web || socks[0].Local.Addr() != host.Addr() || socks[0].Listening {
		t.Errorf("curl's sockets: %+v (%v)", socks, err)
	}
	if owners, err := l.Host.SocketOwners(portolan.UDP, host, web); err == nil {
		t.Errorf("a UDP socket that is not there belongs to %v", owners)
	}
}

func TestSocketsOfEachKind(t *testing.T) {
	l := New(t)
	for _, c := range []struct {
		proto portolan.Proto
		addr  string
	}{{portolan.TCP, HostV4 + ":81"}, {portolan.TCP, "[" + HostV6 + "]:82"}, {portolan.UDP, HostV4 + ":83"}, {portolan.UDP, "[" + HostV6 + "]:84"}} {
		if c.proto == portolan.TCP {
			l.StartTCPEcho(t, l.Host, c.addr)
		} else {
			l.StartUDPEcho(t, l.Host, c.addr)
		}
		owners, err := l.Host.SocketOwners(c.proto, netip.MustParseAddrPort(c.addr), netip.AddrPort{})
		if err != nil || !slices.Contains(owners, os.Getpid()) {
			t.Errorf("%s %s belongs to %v (%v), want %d", c.proto, c.addr, owners, err, os.Getpid())
		}
	}
	socks, err := l.Host.Sockets()
	if err != nil || len(socks) != 4 || !socks[0].Listening || socks[2].Listening {
		t.Errorf("the host's sockets: %+v (%v)", socks, err)
	}
}

func TestSnapshot(t *testing.T) {
	l := New(t)
	l.StartInternet(t)
	take := func() string {
		t.Helper()
		text, err := l.Host.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	before := take()
	l.Host.Run(t, "curl", "-sS", "-m", "5", "-o", "/dev/null", "http://["+WebV6+"]/bytes/1000000")
	if diff := Diff(before, take()); len(diff) != 0 {
		t.Errorf("traffic alone changes the snapshot:\n%s", strings.Join(diff, "\n"))
	}
	for _, c := range []struct {
		what string
		do   []string
		want string
	}{
		{"an address", []string{"ip", "addr", "add", "192.0.2.11/24", "dev", "lan0"}, "192.0.2.11/24"},
		{"a route in a table of its own", []string{"ip", "route", "add", "203.0.113.0/24", "via", GatewayV4, "table", "77"}, "203.0.113.0/24"},
		{"an IPv6 route", []string{"ip", "route", "add", "2001:db8:77::/48", "via", GatewayV6}, "2001:db8:77::/48"},
		{"a rule", []string{"ip", "rule", "add", "fwmark", "7", "table", "77"}, "mark 0x7"},
		{"a sysctl", []string{"sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"}, "ipv4/ip_forward = 1"},
		{"an interface", []string{"ip", "link", "add", "br7", "type", "bridge"}, "br7 bridge"},
		{"a table", []string{"nft", "add", "table", "inet", "seven"}, "table inet seven"},
	} {
		before := take()
		l.Host.Run(t, c.do[0], c.do[1:]...)
		diff := strings.Join(Diff(before, take()), "\n")
		if !strings.Contains(diff, "+") || !strings.Contains(diff, c.want) {
			t.Errorf("%s: the difference %q does not have %q", c.what, diff, c.want)
		}
	}
}

func TestBaseline(t *testing.T) {
	l := New(t)
	files := t.TempDir()
	cgroup := cgroupDir(t)
	socket := filepath.Join(t.TempDir(), "s")
	b, err := l.Baseline(files)
	if err != nil {
		t.Fatal(err)
	}
	b.Check(t) // nothing yet
	ln, err := l.Host.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(files, "left.pid"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	l.Host.Run(t, "mount", "-t", "tmpfs", "left", files)
	sleeper := l.Host.Command(t.Context(), "sleep", "1006")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	left, err := b.Leftovers()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"sleep 1006", "mount on the host: " + files, "unix socket " + socket, "cgroup " + cgroup, "left.pid"} {
		if !slices.ContainsFunc(left, func(thing string) bool { return strings.Contains(thing, want) }) {
			t.Errorf("no %q among the leftovers:\n%s", want, strings.Join(left, "\n"))
		}
	}
	ln.Close()
	_ = sleeper.Process.Kill()
	_ = sleeper.Wait()
	l.Host.Run(t, "umount", files)
	for _, path := range []string{filepath.Join(files, "left.pid"), cgroup} {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
	b.Check(t)
}

// cgroupDir names a cgroup to make: in the pids hierarchy of version 1, or in
// the one of version 2.
func cgroupDir(t *testing.T) string {
	t.Helper()
	name := "portolan-lab-test-" + filepath.Base(t.TempDir()) + "-" + filepath.Base(os.Args[0])
	dir := filepath.Join("/sys/fs/cgroup/pids", name)
	if _, err := os.Stat("/sys/fs/cgroup/pids/cgroup.procs"); err != nil {
		dir = filepath.Join("/sys/fs/cgroup", name)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	return dir
}

func TestBuildBinaries(t *testing.T) {
	b := BuildBinaries(t)
	for _, program := range []string{b.Portolan, b.Agent} {
		if info, err := os.Stat(program); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%s: %v, want a program", program, err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), b.Portolan, "version").CombinedOutput(); err != nil {
		t.Errorf("portolan version: %v: %s", err, out)
	}
	if again := BuildBinaries(t); again != b {
		t.Errorf("the second call gives %+v, want the same as %+v", again, b)
	}
	t.Setenv(binDirVariable, filepath.Dir(b.Portolan))
	if built, err := buildBinaries(); err != nil || built.Portolan != b.Portolan {
		t.Errorf("with %s: %+v, %v", binDirVariable, built, err)
	}
	t.Setenv(binDirVariable, t.TempDir())
	if _, err := buildBinaries(); err == nil {
		t.Error("a directory without the programs is accepted")
	}
}
