package dockercontext

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// pluginPrefix begins the name of every plugin of the docker CLI.
const pluginPrefix = "docker-"

// systemPluginDirs are where the docker CLI looks besides its configuration
// directory (docker/cli, cli-plugins/manager/manager_unix.go). It has neither a
// flag nor a variable for more.
func systemPluginDirs() []string {
	return []string{
		"/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins",
		"/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins",
	}
}

// LinkPlugins makes docker find the CLI plugins of the folder source (compose,
// buildx) that it would not find otherwise: it links them into cli-plugins of
// the configuration directory. A folder that does not exist has none.
func (d Dir) LinkPlugins(source string) error {
	plugins, err := filepath.Glob(filepath.Join(source, pluginPrefix+"*"))
	if err != nil {
		return fmt.Errorf("list docker plugins: %w", err)
	}
	for _, plugin := range plugins {
		if d.hasPlugin(filepath.Base(plugin)) {
			continue
		}
		if err := os.MkdirAll(d.pluginDir(), 0o755); err != nil {
			return fmt.Errorf("link docker plugin: %w", err)
		}
		link := filepath.Join(d.pluginDir(), filepath.Base(plugin))
		if target, err := os.Readlink(link); err == nil && target != plugin {
			_ = os.Remove(link) // it leads nowhere, see hasPlugin
		}
		if err := os.Symlink(plugin, link); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link docker plugin: %w", err)
		}
	}
	return nil
}

// UnlinkPlugins removes the links that LinkPlugins made, unless another profile
// still has a context here and needs them.
func (d Dir) UnlinkPlugins(source string) error {
	if d.anyOurs() {
		return nil
	}
	links, err := os.ReadDir(d.pluginDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unlink docker plugins: %w", err)
	}
	for _, entry := range links {
		link := filepath.Join(d.pluginDir(), entry.Name())
		target, err := os.Readlink(link)
		if err != nil || filepath.Dir(target) != source {
			continue // somebody else's
		}
		if err := os.Remove(link); err != nil {
			return fmt.Errorf("unlink docker plugin: %w", err)
		}
	}
	_ = os.Remove(d.pluginDir()) // fails unless it is empty
	return nil
}

func (d Dir) pluginDir() string { return filepath.Join(string(d), "cli-plugins") }

// hasPlugin says whether docker finds a plugin of that name.
func (d Dir) hasPlugin(name string) bool {
	for _, dir := range append(systemPluginDirs(), d.pluginDir()) {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// anyOurs says whether any context here was made by Portolan.
func (d Dir) anyOurs() bool {
	files, err := filepath.Glob(filepath.Join(string(d), "contexts", "meta", "*", "meta.json"))
	if err != nil {
		return false
	}
	for _, file := range files {
		var m meta
		if text, err := os.ReadFile(file); err == nil && json.Unmarshal(text, &m) == nil && m.Metadata[marker] == true {
			return true
		}
	}
	return false
}
