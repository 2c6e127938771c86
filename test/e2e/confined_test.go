package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// The daemon as it runs has lost what package confine takes, and does with the
// rest all that it has to. What is refused then is shown by TestConfined there.
func TestDaemonConfined(t *testing.T) {
	s := stage.Up(t)
	daemon := s.Status(t).Daemon.PID
	t.Run("every thread", func(t *testing.T) { checkThreads(t, daemon) })
	t.Run("its log", func(t *testing.T) {
		log := s.Portolan(t, "logs", "--source", "daemon")
		for _, want := range []string{`msg="daemon confined"`, "kept.seccomp=true", "kept.landlock="} {
			if !strings.Contains(log, want) || strings.Contains(log, "kept.landlock=0") {
				t.Errorf("the daemon's log does not say %s:\n%s", want, log)
			}
		}
	})
	t.Run("a low port, and its holder's name", func(t *testing.T) { checkLowPort(t, s) })
	t.Run("ping by a raw socket", func(t *testing.T) { checkRawPing(t, s) })
	t.Run("a helper that dies", func(t *testing.T) { checkHelperAgain(t, s) })
	t.Run("without its deputy", func(t *testing.T) { checkNoDeputy(t, s) })
	if now := s.Status(t); now.Daemon.PID != daemon || now.State != api.Running {
		t.Errorf("daemon %d is now %d, %s %v", daemon, now.Daemon.PID, now.State, now.Problems)
	}
}

// checkThreads looks at what proc_pid_status(5) says of each.
func checkThreads(t *testing.T, pid int) {
	t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(paths) < 2 {
		t.Fatalf("threads of process %d: %v, %v", pid, paths, err)
	}
	const bindAndRaw = "0000000000002400" // CAP_NET_BIND_SERVICE, CAP_NET_RAW
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue // ended meanwhile
		}
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"NoNewPrivs": "1", "Seccomp": "2", "CapEff": bindAndRaw, "CapPrm": bindAndRaw,
			"CapInh": "0000000000000000", "CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
		} {
			if !strings.Contains(string(text), "\n"+name+":\t"+want+"\n") {
				t.Errorf("%s: %s is not %s:\n%s", path, name, want, text)
			}
		}
	}
}

func checkLowPort(t *testing.T, s *stage.Stage) {
	t.Helper()
	s.Serve(t, "low", []string{"-p", "127.0.0.1:80:80"}, "web")
	if body, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:80", "/"); err != nil {
		t.Errorf("port 80: %q, %v", body, err)
	}
	taken, err := s.Lab.Host.Listen("tcp", "127.0.0.1:81")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	out, code := s.TryDocker(t, "run", "--rm", "-p", "127.0.0.1:81:80", testimage.Name, "true")
	if want := fmt.Sprintf("(pid %d)", os.Getpid()); code == 0 || !strings.Contains(out, want) {
		t.Errorf("a taken port: exit code %d, %q, want %s in it", code, out, want)
	}
}

// checkRawPing closes ping sockets to everybody, as many systems do.
func checkRawPing(t *testing.T, s *stage.Stage) {
	t.Helper()
	before := strings.TrimSpace(s.Lab.Host.Run(t, "sysctl", "-n", "net.ipv4.ping_group_range"))
	s.Lab.Host.Run(t, "sysctl", "-q", "-w", "net.ipv4.ping_group_range=1 0")
	defer s.Lab.Host.Run(t, "sysctl", "-q", "-w", "net.ipv4.ping_group_range="+before)
	for _, addr := range []string{lab.WebV4, lab.WebV6} {
		if r := s.Toolbox(t, nil, "ping", addr); r.Outcome != testimage.OK {
			t.Errorf("ping %s: %+v", addr, r)
		}
	}
}

// checkHelperAgain kills the router's helper: another one is started, which the
// daemon itself could not do.
func checkHelperAgain(t *testing.T, s *stage.Stage) {
	t.Helper()
	before := s.Status(t)
	if err := syscall.Kill(before.Helper.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	stage.Eventually(t, 2*deadline, "there is another helper", func() bool {
		now := s.Status(t).Helper.PID
		return now != 0 && now != before.Helper.PID
	})
	after := s.Status(t)
	if after.Daemon.PID != before.Daemon.PID || after.Machine.PID != before.Machine.PID {
		t.Errorf("processes before %+v, after %+v: want another helper and nothing else", before, after)
	}
	if r := s.Toolbox(t, nil, "get", "http://"+hostPort(lab.WebV4, 80)+"/ip"); r.Outcome != testimage.OK {
		t.Errorf("outbound with another helper: %+v", r)
	}
}

// checkNoDeputy kills the one process that the daemon started and can't start
// again: no more than the name of a port's holder is lost.
func checkNoDeputy(t *testing.T, s *stage.Stage) {
	t.Helper()
	deputy := 0
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	parent := fmt.Sprintf(" %d ", s.Status(t).Daemon.PID)
	for _, path := range paths {
		stat, _ := os.ReadFile(path)                                            // the process may have ended
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline")) // likewise
		if strings.Contains(string(stat), parent) && strings.HasSuffix(string(command), "\x00deputy\x00") {
			_, _ = fmt.Sscan(filepath.Base(filepath.Dir(path)), &deputy) // the pattern took numbers only
		}
	}
	if deputy == 0 {
		t.Fatal("the daemon has no deputy")
	}
	if err := syscall.Kill(deputy, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	stage.Eventually(t, deadline, "the deputy is gone", func() bool { return syscall.Kill(deputy, 0) != nil })
	taken, err := s.Lab.Host.Listen("tcp", "127.0.0.1:82")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	out, code := s.TryDocker(t, "run", "--rm", "-p", "127.0.0.1:82:80", testimage.Name, "true")
	if code == 0 || !strings.Contains(out, "address already in use") || strings.Contains(out, "(pid") {
		t.Errorf("a taken port without the deputy: exit code %d, %q", code, out)
	}
	if r := s.Toolbox(t, nil, "get", "http://"+hostPort(lab.WebV4, 80)+"/ip"); r.Outcome != testimage.OK {
		t.Errorf("outbound without the deputy: %+v", r)
	}
}
