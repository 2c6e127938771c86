// Package spec is what a machine is told: the daemon writes it, for the
// host's side to its own directory, and for the agent to the directory that host
// and machine share. The host's side never reads the second: the machine can
// write there. Everything of the host's side and of the machine may import it.
package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/system"
)

// Machine is all that the helper and the agent need to know.
type Machine struct {
	Profile profile.Profile `json:"profile"`
	Version string          `json:"version"`
	Link    portolan.Link   `json:"link"`
	// Rootless says that an ordinary user's machine runs in user namespaces.
	Rootless bool `json:"rootless,omitempty"`
	// AgentPath is the portolan-agent binary; it must be visible in the machine.
	AgentPath string `json:"agentPath"`
	// EngineBin is the directory of dockerd, containerd, runc and their shims.
	EngineBin string `json:"engineBin"`
	// EngineSource is "bundled" or the path of an installed dockerd.
	EngineSource  string `json:"engineSource"`
	EngineVersion string `json:"engineVersion"`
	// Mode is what the engine's new networks get.
	Mode portolan.Mode `json:"mode,omitempty"`
	// EngineOptions are merged into the engine's daemon.json.
	EngineOptions map[string]any `json:"engineOptions,omitempty"`
	// BuildCertificates says that steps of builds get the host's CA certificates.
	BuildCertificates bool `json:"buildCertificates,omitempty"`
	// GoodOptions are those with which dockerd last answered.
	GoodOptions map[string]any `json:"goodOptions,omitempty"`
	// RandomPorts is where the engine chooses ports for -P.
	RandomPorts system.PortRange `json:"randomPorts,omitzero"`
	// HostRoutes are networks that the host can reach; the engine must not
	// choose them for its own networks.
	HostRoutes []netip.Prefix `json:"hostRoutes"`
	// Came is when the machine came to Link; zero for its first one.
	Came time.Time `json:"came,omitzero"`
	// Former are the links before this one that running containers may know.
	Former []FormerLink `json:"former,omitempty"`
	// Moving says that router, agent and engine have not all come to Link yet.
	Moving bool `json:"moving,omitempty"`
}

// FormerLink is a link that the machine has left.
type FormerLink struct {
	Link portolan.Link `json:"link"`
	Came time.Time     `json:"came,omitzero"` // as in Machine
	Left time.Time     `json:"left,omitzero"` // zero while the engine has it still
}

// Known reports whether a container that was started then may know the link.
func (f FormerLink) Known(started time.Time) bool {
	return !started.Before(f.Came) && (f.Left.IsZero() || started.Before(f.Left))
}

// fileName is Machine's file in both directories.
const fileName = "machine.json"

// Write stores cfg where Load finds it, on the host and in the machine.
func Write(cfg Machine) error {
	text, err := json.MarshalIndent(cfg, "", "  ")
	if err != nil {
		return fmt.Errorf("encode machine configuration: %w", err)
	}
	for _, dir := range []string{cfg.Profile.RunDir, cfg.Profile.SharedDir()} {
		if err := WriteFile(filepath.Join(dir, fileName), text); err != nil {
			return err
		}
	}
	return nil
}

// Remove deletes the host's copy; the other goes with the shared directory.
func Remove(p profile.Profile) error {
	if err := os.Remove(filepath.Join(p.RunDir, fileName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Load reads the configuration from a directory: Profile.RunDir on the host,
// profile.SharedMount in the machine.
func Load(dir string) (Machine, error) {
	path := filepath.Join(dir, fileName)
	var cfg Machine
	text, err := os.ReadFile(path)
	if err != nil {
		return cfg, fmt.Errorf("read machine configuration: %w", err)
	}
	if err := json.Unmarshal(text, &cfg); err != nil {
		return cfg, fmt.Errorf("%s is damaged: %w; type: portolan down && portolan up", path, err)
	}
	return cfg, nil
}

// WriteFile replaces path as a whole, readable by its owner only.
func WriteFile(path string, text []byte) error {
	temp := path + ".new"
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
