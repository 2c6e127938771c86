package bench

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/portolan-net/portolan/internal/engine"
)

// bareCgroup is the parent of the bare engine's containers.
const bareCgroup = "portolan-bench"

// startBareEngine starts the engine of binDir as Portolan would not: in a plain
// network, mount and pid namespace, with its own bridge, masquerading, and
// state below dir. It returns DOCKER_HOST.
func startBareEngine(t testing.TB, binDir, dir string) string {
	t.Helper()
	socket := filepath.Join(dir, "docker.sock")
	config, err := json.Marshal(map[string]any{
		"hosts":          []string{"unix://" + socket},
		"containerd":     "/run/containerd/containerd.sock",
		"live-restore":   true,
		"exec-opts":      []string{"native.cgroupdriver=cgroupfs"},
		"cgroup-parent":  "/" + bareCgroup,
		"userland-proxy": false, // nothing is published
	})
	check(t, err)
	check(t, os.MkdirAll(dir, 0o700))
	check(t, os.WriteFile(filepath.Join(dir, "daemon.json"), config, 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "containerd.toml"), engine.Layout{RuntimeDir: "/run"}.ContainerdTOML(), 0o600))

	cmd := exec.CommandContext(t.Context(), "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-euc", `
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
for part in docker containerd; do
	mkdir -p "$1/$part" "/var/lib/$part" /run/containerd
	mount --bind "$1/$part" "/var/lib/$part"
done
ip link set lo up
containerd --config "$1/containerd.toml" &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.05; done
dockerd --config-file "$1/daemon.json" &
wait`, "sh", dir)
	cmd.Env = append(os.Environ(), "PATH="+binDir+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	t.Cleanup(func() { removeCgroups(t) }) // after the engine's end: the last comes first
	start(t, cmd)
	return "unix://" + socket
}

// removeCgroups deletes the group that the bare engine made, in every hierarchy.
func removeCgroups(t testing.TB) {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		dirs, err := filepath.Glob(pattern + bareCgroup)
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
