package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/portolan-net/portolan/internal/engine"
)

// startBareEngine starts the engine of binDir as Portolan would not: with its
// own bridge, masquerading, and state below dir, in where's network namespace
// and a plain mount and pid namespace. proxy is its userland proxy, "" for none.
// It returns DOCKER_HOST, and the process whose root the engine has.
func startBareEngine(t testing.TB, where *space, binDir, dir, proxy string) (address string, pid int) {
	t.Helper()
	socket := filepath.Join(dir, "docker.sock")
	// The parent of its containers.
	cgroup := fmt.Sprintf("portolan-bench-%d-%s", os.Getpid(), filepath.Base(dir))
	config, err := json.Marshal(map[string]any{
		"hosts":          []string{"unix://" + socket},
		"containerd":     "/run/containerd/containerd.sock",
		"live-restore":   true,
		"exec-opts":      []string{"native.cgroupdriver=cgroupfs"},
		"cgroup-parent":  "/" + cgroup,
		"userland-proxy": proxy != "",
		// Only looked at when there is one.
		"userland-proxy-path": proxy,
	})
	check(t, err)
	check(t, os.MkdirAll(dir, 0o700))
	check(t, os.WriteFile(filepath.Join(dir, "daemon.json"), config, 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "containerd.toml"), engine.Layout{RuntimeDir: "/run"}.ContainerdTOML(), 0o600))

	// It must outlive the test's context, which ends before containers are removed.
	cmd := where.command(context.WithoutCancel(t.Context()), "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-euc", `
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
for part in docker containerd; do
	mkdir -p "$1/$part" "/var/lib/$part" /run/containerd
	mount --bind "$1/$part" "/var/lib/$part"
done
containerd --config "$1/containerd.toml" &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.05; done
dockerd --config-file "$1/daemon.json" &
wait`, "sh", dir)
	cmd.Env = append(os.Environ(), "PATH="+binDir+":"+os.Getenv("PATH"))
	t.Cleanup(func() { removeCgroups(t, cgroup) }) // after the engine's end: the last comes first
	start(t, cmd)
	eventually(t, "the bare engine's shell runs", func() bool { return len(children(cmd.Process.Pid, "sh")) > 0 })
	return "unix://" + socket, children(cmd.Process.Pid, "sh")[0]
}

// removeCgroups deletes the group that the bare engine made, in every hierarchy.
func removeCgroups(t testing.TB, cgroup string) {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		dirs, err := filepath.Glob(pattern + cgroup)
		check(t, err)
		found = append(found, dirs...)
	}
	for _, dir := range found {
		eventually(t, dir+" is gone", func() bool {
			err := os.Remove(dir)
			return err == nil || errors.Is(err, fs.ErrNotExist)
		})
	}
}
