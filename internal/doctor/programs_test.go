package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func program(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// The agent needs its shim beside it.
func TestAgentAndShim(t *testing.T) {
	o := options(t)
	first, second := t.TempDir(), t.TempDir()
	o.AgentDirs = []string{first, second}
	if f := agentCheck(t.Context(), o)[0]; f.Result != Fail || !strings.Contains(f.Detail, first+" or "+second) {
		t.Errorf("without an agent: %+v", f)
	}
	agent := filepath.Join(second, "portolan-agent")
	program(t, agent)
	program(t, filepath.Join(first, "portolan-shim"))
	if f := agentCheck(t.Context(), o)[0]; f.Result != Fail || !strings.Contains(f.Detail, "portolan-shim") {
		t.Errorf("without a shim beside it: %+v", f)
	}
	program(t, filepath.Join(second, "portolan-shim"))
	if f := agentCheck(t.Context(), o)[0]; f.Result != OK || f.Detail != agent {
		t.Errorf("with both: %+v", f)
	}
}

func TestPlugins(t *testing.T) {
	o := options(t)
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	program(t, filepath.Join(bin, "docker")) // without any plugin
	o.EngineDirs = []string{t.TempDir()}
	built := filepath.Join(o.EngineDirs[0], "cli-plugins", "docker-compose")
	program(t, built)
	findings := pluginChecks(t.Context(), o)
	if f := find(t, findings, "docker buildx"); f.Result != Warn || f.Fix == "" {
		t.Errorf("nowhere: %+v", f)
	}
	if f := find(t, findings, "docker compose"); f.Result != OK || !strings.Contains(f.Detail, built) {
		t.Errorf("built with Portolan: %+v", f)
	}
	if err := os.WriteFile(filepath.Join(bin, "docker"), []byte("#!/bin/sh\nexit 0\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if f := find(t, pluginChecks(t.Context(), o), "docker buildx"); f.Result != OK {
		t.Errorf("docker has it: %+v", f)
	}
}
