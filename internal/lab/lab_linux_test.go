package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// victimVariable makes the test binary the process that TestKilledTestProcess
// kills.
const victimVariable = "PORTOLAN_LAB_VICTIM"

// patience bounds what takes well under a second.
const patience = 5 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(victimVariable) != "" {
		victim()
	}
	goleak.VerifyTestMain(m)
}

func TestEveryNodeReachesTheServers(t *testing.T) {
	l := New(t)
	s := l.StartInternet(t)
	for _, c := range []struct {
		node           *Node
		server, client string
	}{
		{l.Host, WebV4, HostV4},
		{l.Host, WebV6, HostV6},
		{l.Neighbour, WebV4, NeighbourV4},
		{l.Neighbour, WebV6, NeighbourV6},
		{l.Gateway, WebV4, uplinkV4},
	} {
		url := "http://" + net.JoinHostPort(c.server, "80") + "/ip"
		if got := strings.TrimSpace(c.node.Run(t, "curl", "-sS", "-m", "5", url)); got != c.client {
			t.Errorf("%s from %s is seen as %q, want %q", url, c.node.Name, got, c.client)
		}
	}
	if got := s.Web[0].Clients(); len(got) != 3 || got[0].Addr().String() != HostV4 {
		t.Errorf("the web server saw %v, want three clients, the first %s", got, HostV4)
	}
	s.Web[0].Forget()
	if got := s.Web[0].Clients(); len(got) != 0 {
		t.Errorf("after Forget the web server remembers %v", got)
	}
}

func TestLANAndAlias(t *testing.T) {
	l := New(t)
	const port = "7000"
	for _, a := range []string{HostV4, HostV6, HostAliasV4, HostAliasV6} {
		l.StartTCPEcho(t, l.Host, net.JoinHostPort(a, port))
	}
	for _, c := range []struct {
		from *Node
		addr string
		want error
	}{
		{l.Neighbour, HostV4, nil},
		{l.Neighbour, HostV6, nil},
		{l.Internet, HostV4, nil},
		{l.Host, HostAliasV4, nil},
		{l.Host, HostAliasV6, nil},
		{l.Neighbour, HostAliasV4, syscall.ENETUNREACH}, // the gateway has no route to it
	} {
		if err := dial(t, c.from, net.JoinHostPort(c.addr, port), patience); !errors.Is(err, c.want) {
			t.Errorf("dial %s from %s: %v, want %v", c.addr, c.from.Name, err, c.want)
		}
	}
}

// dial connects over TCP and hangs up.
func dial(t *testing.T, n *Node, addr string, patience time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := n.Dial(ctx, "tcp", addr)
	if err == nil {
		c.Close()
	}
	return err
}

func TestRefusals(t *testing.T) {
	l := New(t)
	const blink = 300 * time.Millisecond
	for _, c := range []struct {
		addr string
		want error
	}{
		{NetUnreachableV4, syscall.ENETUNREACH},
		{NetUnreachableV6, syscall.ENETUNREACH},
		{ProhibitedV4, syscall.EHOSTUNREACH}, // what Linux makes of code 13
		{ProhibitedV6, syscall.EACCES},
		{HostUnreachableV4, syscall.EHOSTUNREACH},
		{HostUnreachableV6, syscall.EHOSTUNREACH},
		{EmptyV4, syscall.ECONNREFUSED},
		{EmptyV6, syscall.ECONNREFUSED},
		{BlackHoleV4, context.DeadlineExceeded},
		{BlackHoleV6, context.DeadlineExceeded},
	} {
		for range 3 { // no limit on how often the gateway answers
			within := 500 * time.Millisecond // the first answer counts, a SYN sent again comes later
			if c.want == context.DeadlineExceeded {
				within = blink
			}
			if err := dial(t, l.Host, net.JoinHostPort(c.addr, "80"), within); !matches(err, c.want) {
				t.Errorf("dial %s: %v, want %v", c.addr, err, c.want)
			}
		}
	}
}

// matches takes any time-out for the end of a context: a dial has two of them.
func matches(err, want error) bool {
	var timed net.Error
	if errors.Is(want, context.DeadlineExceeded) {
		return errors.As(err, &timed) && timed.Timeout()
	}
	return errors.Is(err, want)
}

func TestHostFiles(t *testing.T) {
	outside, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	l := New(t)
	if got := l.Host.Run(t, "cat", "/etc/resolv.conf"); got != defaultResolvConf {
		t.Errorf("resolv.conf = %q, want %q", got, defaultResolvConf)
	}
	if err := l.SetResolvConf("nameserver " + DNSV6 + "\n"); err != nil {
		t.Fatal(err)
	}
	if got := l.Host.Run(t, "cat", "/etc/resolv.conf"); got != "nameserver "+DNSV6+"\n" {
		t.Errorf("resolv.conf = %q after SetResolvConf", got)
	}
	if after, err := os.ReadFile("/etc/resolv.conf"); err != nil || string(after) != string(outside) {
		t.Errorf("the computer's own resolv.conf became %q (%v)", after, err)
	}
	if got := l.Host.Run(t, "getent", "hosts", "neighbour.lab"); !strings.Contains(got, NeighbourV6) {
		t.Errorf("getent hosts neighbour.lab = %q, want %s", got, NeighbourV6)
	}
	if got := strings.Fields(l.Host.Run(t, "ls", "/sys/class/net")); !slices.Equal(got, []string{"lan0", "lo"}) {
		t.Errorf("/sys shows the interfaces %v, want lan0 and lo", got)
	}
	if got := strings.Fields(l.Host.Run(t, "cat", "/proc/sys/net/ipv4/ping_group_range")); got[1] == "0" {
		t.Errorf("ping_group_range = %v, want it open", got)
	}
	wd, _ := os.Getwd()
	if got := strings.TrimSpace(l.Host.Run(t, "pwd")); got != wd {
		t.Errorf("working directory %q, want %q", got, wd)
	}
}

func TestHostKeepsCgroups(t *testing.T) {
	l := New(t)
	below := func(mountinfo string) (points []string) {
		for line := range strings.Lines(mountinfo) {
			if f := strings.Fields(line); strings.HasPrefix(f[4], "/sys/") {
				points = append(points, f[4])
			}
		}
		slices.Sort(points)
		return points
	}
	own, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	want := below(string(own))
	if got := below(l.Host.Run(t, "cat", "/proc/self/mountinfo")); len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("mounts below /sys:\n%v, want\n%v", got, want)
	}
}

func TestCommandFailureIsTold(t *testing.T) {
	l := New(t)
	var exit *exec.ExitError
	err := l.Host.Command(t.Context(), "sh", "-c", "exit 7").Run()
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exit 7 gives %v", err)
	}
	if _, err := l.Host.Dial(t.Context(), "tcp", "web.internet.test:80"); err == nil {
		t.Error("Dial accepts a name, which would be looked up outside the node")
	}
}

func TestTwoLabsAtOnce(t *testing.T) {
	a, b := New(t), New(t)
	webA, webB := a.StartWeb(t, a.Internet, WebV4+":80"), b.StartWeb(t, b.Internet, WebV4+":80")
	a.Host.Run(t, "curl", "-sS", "-m", "5", "http://"+WebV4+"/")
	if len(webA.Clients()) != 1 || len(webB.Clients()) != 0 {
		t.Errorf("clients: %v and %v, want one and none", webA.Clients(), webB.Clients())
	}
	b.Host.Run(t, "curl", "-sS", "-m", "5", "http://"+WebV4+"/")
	if len(webA.Clients()) != 1 || len(webB.Clients()) != 1 {
		t.Errorf("clients: %v and %v, want one each", webA.Clients(), webB.Clients())
	}
}

func TestNothingStaysBehind(t *testing.T) {
	descriptors := func() (open []string) {
		entries, _ := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			to, err := os.Readlink("/proc/self/fd/" + e.Name())
			if err == nil && !strings.HasPrefix(to, "pipe:") { // Go keeps pipes for splicing
				open = append(open, strings.SplitN(to, "[", 2)[0])
			}
		}
		slices.Sort(open)
		return open
	}
	mounts := func() string {
		text, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	fds, mounted := descriptors(), mounts()
	var dir string
	t.Run("lab", func(t *testing.T) {
		l := New(t)
		dir = l.Dir
		l.StartInternet(t)
		l.Host.Run(t, "curl", "-sS", "-m", "5", "http://"+WebV4+"/bytes/1000000", "-o", "/dev/null")
		if err := l.Link("host").SetLoss(0.1); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory %s: %v, want none", dir, err)
	}
	if got := descriptors(); !slices.Equal(got, fds) {
		t.Errorf("open descriptors:\n%v, want\n%v", got, fds)
	}
	if got := mounts(); got != mounted {
		t.Errorf("mounts:\n%s, want\n%s", got, mounted)
	}
}

func TestStrayProcessIsFoundAndKilled(t *testing.T) {
	for _, c := range []struct{ name, script string }{
		{"in the host's namespaces", "setsid sleep 1001 & echo $!"},
		{"in other namespaces", "unshare --net --mount --fork setsid sleep 1002 & echo $!"},
		{"with an empty environment", "env -i setsid sleep 1003 & echo $!"},
		{"with only the mark", "unshare --net setsid sleep 1004 & echo $!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := build(config{mtu: 1500})
			if err != nil {
				t.Fatal(err)
			}
			node := l.Host
			if c.name == "with only the mark" {
				node = l.Neighbour // shares the test's mounts
			}
			cmd := node.Command(t.Context(), "sh", "-c", c.script+" >"+l.Dir+"/pid")
			if err := cmd.Run(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond) // setsid is done
			strays := l.processes()
			if err := l.close(); err != nil {
				t.Error(err)
			}
			if len(strays) == 0 {
				t.Fatal("the stray process is not found")
			}
			for _, s := range strays {
				waitUntil(t, fmt.Sprintf("%s is gone", s), func() bool { return gone(s.pid) })
			}
		})
	}
}

// gone reports whether a process has ended, reaped or not.
func gone(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}

func waitUntil(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// victim builds a lab, starts a daemon in it, tells about both and waits to be
// killed.
func victim() {
	l, err := build(config{mtu: 1500})
	if err == nil {
		cmd := l.Host.Command(context.Background(), "sh", "-c", "setsid sleep 1005 </dev/null >/dev/null 2>&1 & echo $!")
		var out []byte
		if out, err = cmd.Output(); err == nil {
			fmt.Printf("%s %s", l.Dir, out)
			time.Sleep(time.Minute)
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

func TestKilledTestProcess(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), victimVariable+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dir string
	var pid int
	line, _ := bufio.NewReader(out).ReadString('\n')
	_, scanErr := fmt.Sscan(line, &dir, &pid)
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // "signal: killed"
	if scanErr != nil || !strings.HasPrefix(filepath.Base(dir), "portolan-lab-") {
		t.Fatalf("the victim said %q: %v", line, scanErr)
	}
	waitUntil(t, "the daemon is killed", func() bool { return gone(pid) })
	waitUntil(t, "the directory is removed", func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist)
	})
}
