package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// newSlirp starts slirp4netns with host as its host and returns where its
// clients run, and its pid. They reach the host's loopback at slirpHost.
func newSlirp(t testing.TB, host *space) (client commander, carrier int) {
	t.Helper()
	pid, client := newUserSpace(t, host)
	slirp := start(t, host.command(t.Context(), "slirp4netns", "--configure", fmt.Sprintf("--mtu=%d", largeMTU), fmt.Sprint(pid), "tap0"))
	awaitRoute(t, pid, "tap0")
	return client, slirp.Process.Pid
}

const slirpHost = "10.0.2.2"

// newPasta does the same with pasta, which shows the host's loopback at its
// host's gateway's address. It is nil where pasta is not installed.
func newPasta(t testing.TB, host *space) (client commander, carrier int) {
	t.Helper()
	if _, err := exec.LookPath("pasta"); err != nil {
		return nil, 0
	}
	pid, client := newUserSpace(t, host)
	pasta := start(t, host.command(t.Context(), "pasta", "--foreground", "--config-net", "--mtu", fmt.Sprint(largeMTU), "--runas", "0",
		"-t", "none", "-u", "none", "-T", "none", "-U", "none", fmt.Sprint(pid)))
	awaitRoute(t, pid, "net2")
	return client, pasta.Process.Pid
}

const pastaHost = serverGateway

// newUserSpace makes a user namespace with a network namespace in it, as
// rootless engines do, and returns a process that holds them.
func newUserSpace(t testing.TB, host *space) (pid int, client commander) {
	t.Helper()
	holder := host.command(t.Context(), "sleep", "infinity")
	holder.Path, holder.Args = mustFind(t, "sleep"), []string{"sleep", "infinity"}
	holder.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:   syscall.SIGKILL,
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
	}
	pid = start(t, holder).Process.Pid
	return pid, func(ctx context.Context, name string, args ...string) *exec.Cmd {
		return entered(ctx, []string{fmt.Sprintf("--target=%d", pid), "--user", "--net", "--preserve-credentials"}, name, args...)
	}
}

func mustFind(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	check(t, err)
	return path
}

// awaitRoute waits for a default route (destination 0) over an interface.
func awaitRoute(t testing.TB, pid int, iface string) {
	t.Helper()
	eventually(t, "process "+fmt.Sprint(pid)+" has a route over "+iface, func() bool {
		routes, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/route", pid))
		return err == nil && strings.Contains(string(routes), iface+"\t00000000")
	})
}
