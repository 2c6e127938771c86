package rootless

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
)

// The units of dist/systemd mean what they say to systemd, and their commands
// exist. systemd itself does not have to run.
func TestUnits(t *testing.T) {
	bin := lab.BuildBinaries(t)
	for path, flags := range map[string][]string{
		"portolan.service":      {"--system"},
		"user/portolan.service": {"--user"},
	} {
		t.Run(path, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("../../dist/systemd", path))
			if err != nil {
				t.Fatal(err)
			}
			const installed = "/usr/local/bin/portolan"
			if strings.Count(string(text), "\nExec") != strings.Count(string(text), "="+installed+" ") {
				t.Errorf("not every command is %s, which `make install` replaces", installed)
			}
			unit := strings.ReplaceAll(string(text), installed, bin.Portolan)
			if out := verify(t, unit, flags); out != "" {
				t.Errorf("systemd-analyze says:\n%s", out)
			}
			for name, broken := range map[string]string{
				"a misspelt key":   strings.Replace(unit, "KillMode=", "KilMode=", 1),
				"a wrong value":    strings.Replace(unit, "KillMode=process", "KillMode=some", 1),
				"no such command":  strings.Replace(unit, bin.Portolan, bin.Portolan+"-not", 1),
				"an unknown block": strings.Replace(unit, "[Install]", "[Instal]", 1),
			} {
				if verify(t, broken, flags) == "" {
					t.Errorf("systemd-analyze has nothing to say about %s", name)
				}
			}
			for line := range strings.SplitSeq(unit, "\n") {
				if command, ok := strings.CutPrefix(line, "ExecSt"); ok {
					_, command, _ = strings.Cut(command, "=")
					words := append(strings.Fields(command), "--help")
					if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
						t.Errorf("%s: %v: %s", command, err, out)
					}
				}
			}
		})
	}
}

// verify returns all that systemd-analyze says about a unit.
func verify(t *testing.T, unit string, flags []string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "portolan.service")
	if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "systemd-analyze", append(flags, "verify", "--man=no", "--generators=no", path)...)
	// The user's manager wants a runtime directory.
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir(), "SYSTEMD_LOG_LEVEL=warning")
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil && text == "" {
		text = err.Error()
	}
	return text
}
