package engine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// A program goes on to be found when an upgrade has replaced its file.
func TestAdoptReplacedProgram(t *testing.T) {
	dir := t.TempDir()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "dockerd")
	if err := os.WriteFile(path, text, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	p := process{name: "dockerd", runDir: dir, argv: []string{path}}
	if err := os.WriteFile(p.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := p.adopt(); got != cmd.Process.Pid {
		t.Errorf("adopt = %d, want %d", got, cmd.Process.Pid)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := p.adopt(); got != cmd.Process.Pid {
		t.Errorf("after its file was replaced, adopt = %d, want %d", got, cmd.Process.Pid)
	}
	other := process{name: "dockerd", runDir: dir, argv: []string{"containerd"}}
	if got := other.adopt(); got != 0 {
		t.Errorf("adopt of another program = %d, want 0", got)
	}
}
