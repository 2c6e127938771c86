// Package profile says where one machine's files and sockets are. A profile is
// one machine with all that belongs to it; two profiles share nothing. The
// package computes paths and checks names; it makes no files. Everything on the
// host may import it.
package profile

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// Default is the profile that is used when none is named.
const Default = "default"

// SharedMount is where the machine sees SharedDir.
const SharedMount = "/run/portolan"

// maxSocketPath is sun_path of unix(7) less its terminating zero.
const maxSocketPath = 107

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Profile names one machine and its directories, all absolute.
type Profile struct {
	Name      string
	StateDir  string // survives a restart of the host: images, volumes, logs
	RunDir    string // sockets and pid files
	ConfigDir string // what the user chose
}

// Open returns the profile of that name ("" means Default) for the current
// user. State is under /var/lib/portolan and /run/portolan for root, under the
// XDG base directories for everybody else. Settings are under XDG_CONFIG_HOME for
// root too. PORTOLAN_STATE_DIR, PORTOLAN_RUNTIME_DIR and PORTOLAN_CONFIG_DIR
// replace the three roots.
func Open(name string) (Profile, error) {
	if name == "" {
		name = Default
	}
	if !namePattern.MatchString(name) {
		return Profile{}, fmt.Errorf("profile name %q: want 1 to 32 of a-z, 0-9 and -, beginning with a letter or digit", name)
	}
	state, err := root("PORTOLAN_STATE_DIR", "/var/lib", "XDG_DATA_HOME", ".local/share")
	if err != nil {
		return Profile{}, err
	}
	run, err := root("PORTOLAN_RUNTIME_DIR", "/run", "XDG_RUNTIME_DIR", ".local/run")
	if err != nil {
		return Profile{}, err
	}
	config, err := configRoot()
	if err != nil {
		return Profile{}, err
	}
	p := Profile{
		Name: name, StateDir: filepath.Join(state, name), RunDir: filepath.Join(run, name), ConfigDir: filepath.Join(config, name),
	}
	if longest := p.EngineSocket(); len(longest) > maxSocketPath {
		return Profile{}, fmt.Errorf("runtime directory %s: the socket path %s is longer than %d bytes; set PORTOLAN_RUNTIME_DIR to a shorter one", run, longest, maxSocketPath)
	}
	return p, nil
}

// root finds the directory that holds all profiles.
func root(override, system, xdg, home string) (string, error) {
	dir := os.Getenv(override)
	switch {
	case dir != "":
		return filepath.Abs(dir)
	case os.Geteuid() == 0:
		return filepath.Join(system, "portolan"), nil
	}
	return below(override, xdg, home)
}

// configRoot finds the directory that holds all profiles' settings.
func configRoot() (string, error) {
	const override = "PORTOLAN_CONFIG_DIR"
	if dir := os.Getenv(override); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 && os.Getenv("XDG_CONFIG_HOME") == "" && os.Getenv("HOME") == "" {
		return filepath.Join("/root", ".config", "portolan"), nil // a service manager sets no HOME
	}
	return below(override, "XDG_CONFIG_HOME", ".config")
}

// below finds Portolan's directory below an XDG base directory, whose place is
// named by a variable or is in the home directory.
func below(override, xdg, home string) (string, error) {
	dir := os.Getenv(xdg)
	if dir == "" {
		base, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find home directory: %w; set HOME or %s", err, override)
		}
		dir = filepath.Join(base, home)
	}
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("%s=%s: want an absolute path", xdg, dir)
	}
	return filepath.Join(dir, "portolan"), nil
}

// ContextName is the docker context of the profile.
func (p Profile) ContextName() string {
	if p.Name == Default {
		return "portolan"
	}
	return "portolan-" + p.Name
}

// DockerSocket is what DOCKER_HOST names; the daemon serves it.
func (p Profile) DockerSocket() string { return filepath.Join(p.RunDir, "docker.sock") }

// ControlSocket is the daemon's own API.
func (p Profile) ControlSocket() string { return filepath.Join(p.RunDir, "portolan.sock") }

// HelperSocket is where the router helper hands over its descriptors.
func (p Profile) HelperSocket() string { return filepath.Join(p.RunDir, "helper.sock") }

// ForwardDir holds the sockets of forwards that listen on the host.
func (p Profile) ForwardDir() string { return filepath.Join(p.RunDir, "forward") }

// LockFile is held while a daemon or an up works on the profile.
func (p Profile) LockFile() string { return filepath.Join(p.RunDir, "lock") }

// SharedDir is the one directory that the host and the machine both write; the
// machine sees it as SharedMount.
func (p Profile) SharedDir() string { return filepath.Join(p.RunDir, "machine") }

// EngineSocket is dockerd's own socket, in SharedDir.
func (p Profile) EngineSocket() string { return filepath.Join(p.SharedDir(), "engine.sock") }

// AgentSocket is where the daemon listens to the agent, in SharedDir.
func (p Profile) AgentSocket() string { return filepath.Join(p.SharedDir(), "daemon.sock") }

// DaemonLog, EngineLog and the others under LogDir are what `portolan logs` shows.
func (p Profile) LogDir() string { return filepath.Join(p.StateDir, "log") }

// SettingsFile holds what the user chose; it need not exist.
func (p Profile) SettingsFile() string { return filepath.Join(p.ConfigDir, "settings.json") }

// EngineDir holds the engine's data: images, containers, volumes.
func (p Profile) EngineDir() string { return filepath.Join(p.StateDir, "engine") }
