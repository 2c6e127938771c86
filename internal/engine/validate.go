package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/portolan-net/portolan/internal/portolan"
)

// TryOptions asks the dockerd of an engine that does not run whether it takes
// the user's options.
func TryOptions(ctx context.Context, b Binaries, options map[string]any) error {
	dockerd := filepath.Join(b.Dir, "dockerd")
	// dockerd wants to find a program in the shim's place, and does not run it.
	text, err := Layout{Link: portolan.DefaultLink(), Version: b.Version, Shim: dockerd}.DaemonJSON(options)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "portolan-engine")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	return validate(ctx, dockerd, dir, text)
}

// validate asks dockerd whether it takes a configuration, by way of a file in dir.
// What it says about one that it does not take is a *refusal.
func validate(ctx context.Context, dockerd, dir string, config []byte) error {
	path := filepath.Join(dir, "daemon.json.new")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(path) }()
	out, err := exec.CommandContext(ctx, dockerd, "--validate", "--config-file", path).CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("ask dockerd whether it takes the options: %w", ctx.Err())
	}
	if err != nil {
		said := strings.ReplaceAll(string(lastOf(out)), path, "the configuration")
		if said == "" {
			said = err.Error()
		}
		return &refusal{"dockerd does not take the options: " + said}
	}
	return nil
}

// refusal is what dockerd says about options that it does not take.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

// LastLine is a log's last line; "" when it can't be read.
func LastLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(lastOf(text))
}

// lastOf is the last line of a text.
func lastOf(text []byte) []byte {
	text = bytes.TrimSpace(text)
	return text[bytes.LastIndexByte(text, '\n')+1:]
}
