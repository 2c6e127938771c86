package guest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inNamespace runs the calling test again in a mount namespace of its own, and
// returns true in that second run.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "PORTOLAN_TEST_NAMESPACE"
	if os.Getenv(mark) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("in a mount namespace of its own:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

func TestMirrorShowsAndFollows(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	// /run stands for itself: it holds the originals.
	host := t.TempDir()
	if err := bind(host, "/run"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 { // the mirror, and what stands for the host
			_ = unix.Unmount("/run", unix.MNT_DETACH)
		}
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(host, "user/1000"), 0o755))
	must(os.WriteFile(filepath.Join(host, "file"), []byte("text"), 0o644))
	must(os.WriteFile(filepath.Join(host, "docker.sock"), nil, 0o644))
	must(os.WriteFile(filepath.Join(host, "went"), nil, 0o644))
	must(os.Mkdir(filepath.Join(host, "again"), 0o755))
	must(os.WriteFile(filepath.Join(host, "again/old"), nil, 0o644))
	must(mirror("/run", ownRun))

	expect := func(path, want string) {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil || string(text) != want {
			t.Errorf("%s holds %q (%v), want %q", path, text, err, want)
		}
	}
	expect("/run/file", "text")
	if _, err := os.Lstat("/run/docker.sock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the host's docker.sock shows: %v", err)
	}
	must(os.WriteFile("/run/user/1000/new", []byte("through"), 0o644))
	expect(filepath.Join(host, "user/1000/new"), "through")

	// While nobody follows. The machine's own entries stay.
	must(os.Mkdir("/run/engine", 0o755))
	must(os.WriteFile(filepath.Join(host, "came"), []byte("came"), 0o644))
	must(os.Remove(filepath.Join(host, "went")))
	must(os.Remove(filepath.Join(host, "again/old")))
	must(os.Remove(filepath.Join(host, "again")))
	must(os.Mkdir(filepath.Join(host, "again"), 0o755))
	must(os.WriteFile(filepath.Join(host, "again/new"), nil, 0o644))

	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- FollowMirrors(ctx, slog.New(slog.DiscardHandler)) }()
	time.Sleep(50 * time.Millisecond) // until it watches; a late watch fails the test
	must(os.WriteFile(filepath.Join(host, "later"), []byte("later"), 0o644))
	must(os.Mkdir(filepath.Join(host, "dir"), 0o755))
	must(os.WriteFile(filepath.Join(host, "dir/x"), []byte("x"), 0o644))
	must(os.Remove(filepath.Join(host, "file")))
	eventually(t, func() bool {
		_, later := os.Stat("/run/later")
		_, dir := os.Stat("/run/dir/x")
		_, file := os.Lstat("/run/file")
		return later == nil && dir == nil && errors.Is(file, os.ErrNotExist)
	})
	expect("/run/came", "came")
	if _, err := os.Lstat("/run/went"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what went while nobody followed shows: %v", err)
	}
	for _, path := range []string{"/run/again/new", "/run/engine", originals} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s does not show: %v", path, err)
		}
	}
	stop()
	must(<-done)
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come true within 5 s")
		}
	}
}

func TestKeepMounts(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tmpfs := func(path string) {
		t.Helper()
		must(os.MkdirAll(path, 0o755))
		must(unix.Mount("tmpfs", path, "tmpfs", 0, ""))
	}
	tmpfs(dir)
	tmpfs(dir + "/security")
	tmpfs(dir + "/cgroup")
	must(os.WriteFile(dir+"/security/mark", nil, 0o644))
	must(os.WriteFile(dir+"/cgroup/mark", nil, 0o644))
	kept, err := keepMounts(dir, dir+"/cgroup")
	must(err)
	defer kept.close()
	must(unix.Unmount(dir, unix.MNT_DETACH))
	tmpfs(dir)
	defer func() { must(unix.Unmount(dir, unix.MNT_DETACH)) }()
	must(os.Mkdir(dir+"/security", 0o755))
	must(os.Mkdir(dir+"/cgroup", 0o755))
	must(kept.restore())
	if _, err := os.Stat(dir + "/security/mark"); err != nil {
		t.Errorf("the kept mount is not back: %v", err)
	}
	if _, err := os.Stat(dir + "/cgroup/mark"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the excepted mount is back: %v", err)
	}
}
