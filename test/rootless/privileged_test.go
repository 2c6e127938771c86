package rootless

import (
	"fmt"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// checkPrivileged lets a --privileged container that sees all files of the
// host try what only root of the host may do, or Portolan's daemon.
func checkPrivileged(t *testing.T, s *stage.Stage) {
	for name, network := range map[string]string{"bridged": "bridge", "hostnet": "host"} {
		s.Docker(t, "run", "-d", "--name", name, "--privileged", "-v", "/:/host", "--network", network, testimage.Name, "sleep", "1h")
		t.Cleanup(func() { s.Docker(t, "rm", "-f", name) })
	}
	status := s.Status(t)
	t.Run("files of root", func(t *testing.T) {
		for _, script := range []string{
			"cat /host/etc/shadow",
			"touch /host/etc/portolan-was-here",
			"echo x >> /host/etc/passwd",
			"chmod 777 /host/etc",
			"mknod /disk b 8 0",
			"umount -l /host/proc; old=$(cat /host/proc/sys/kernel/panic) && echo $old > /host/proc/sys/kernel/panic",
		} {
			out, code := shell(t, s, "bridged", script)
			if code == 0 || !denied(out) {
				t.Errorf("%s: exit code %d: %s", script, code, out)
			}
		}
	})
	t.Run("sockets of the daemon", func(t *testing.T) { checkSockets(t, s) })
	t.Run("the host's network", func(t *testing.T) {
		// What covers the host's /proc may be taken off: it shows no more than
		// the user may see. Its processes are of another user namespace.
		shell(t, s, "hostnet", "umount -l /host/proc")
		for name, pid := range map[string]int{"daemon": status.Daemon.PID, "router helper": status.Helper.PID} {
			if out, code := shell(t, s, "hostnet", fmt.Sprintf("cat /host/proc/%d/comm", pid)); code != 0 || strings.TrimSpace(out) != "portolan" {
				t.Fatalf("the %s is not to be seen, so what follows shows nothing: %s", name, out)
			}
			for _, script := range []string{
				fmt.Sprintf("nsenter --net=/host/proc/%d/ns/net true", pid),
				fmt.Sprintf("nsenter -n/host/proc/%d/ns/net true", pid),
				fmt.Sprintf("ls /host/proc/%d/root/", pid),
				fmt.Sprintf(": < /host/proc/%d/fd/3", pid),
				fmt.Sprintf("head -c 1 /host/proc/%d/mem", pid),
			} {
				if out, code := shell(t, s, "hostnet", script); code == 0 || !denied(out) {
					t.Errorf("%s of the %s: exit code %d: %s", script, name, code, out)
				}
			}
		}
		for _, iface := range s.Exec(t, "hostnet", "ifaces").Ifaces {
			for _, addr := range iface.Addresses {
				if strings.HasPrefix(addr, lab.HostV4+"/") || strings.HasPrefix(addr, lab.HostV6+"/") {
					t.Errorf("--network host has the host's address %s", addr)
				}
			}
		}
	})
	t.Run("interfaces of the router", func(t *testing.T) {
		// What the machine owns it may delete from the far side; this shows that
		// the request is right.
		shell(t, s, "hostnet", "ip link add victim type bridge")
		if got := s.Exec(t, "bridged", "del-link", "victim"); got.Outcome != testimage.OK {
			t.Errorf("an interface of the machine: %+v", got)
		}
		for _, name := range []string{"slow0", "e0"} {
			if got := s.Exec(t, "hostnet", "del-link", name); got.Outcome != testimage.Prohibited {
				t.Errorf("%s of the router: %+v", name, got)
			}
		}
	})
	if got := s.Toolbox(t, nil, "get", "http://"+hostPort(lab.WebV4, 80)+"/ip"); got.Outcome != testimage.OK {
		t.Errorf("a container out, after all that: %+v", got)
	}
}

// denied reports whether a program was refused for want of permission.
func denied(out string) bool {
	return strings.Contains(out, "ermission denied") || strings.Contains(out, "not permitted")
}

// The sockets by which the daemon is ruled are not below any mount that a
// container can take off.
func checkSockets(t *testing.T, s *stage.Stage) {
	run := s.RunDir // of all profiles
	for _, seen := range []string{"/host", "/host/run/.host"} {
		for range 3 { // whatever lies upon it
			shell(t, s, "bridged", fmt.Sprintf("umount -l %s%s/default; umount -l %s%s; umount -l %s/run/user", seen, run, seen, run, seen))
		}
	}
	out, _ := shell(t, s, "bridged", "find /host/run /host/var/run /run -name '*.sock'")
	if !strings.Contains(out, "/host/run/portolan/engine.sock") {
		t.Fatalf("the engine's own socket is not found, so the rest shows nothing: %s", out)
	}
	for _, socket := range []string{"portolan.sock", "helper.sock"} {
		if strings.Contains(out, "/"+socket) {
			t.Errorf("a container finds %s:\n%s", socket, out)
		}
	}
}
