package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/portolan-net/portolan/internal/engine"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
)

// optionsFile holds a profile's engine options, in its state directory: a JSON
// object of keys that dockerd's daemon.json knows (docs/engine.md).
const optionsFile = "engine.json"

// engineOptions reads the profile's engine options; none when there is no file.
// A file that can't be read, or that names a key which Portolan sets itself, is
// an error: an engine with other options than its user asked for is worse than none.
func engineOptions(p profile.Profile) (map[string]any, error) {
	path := filepath.Join(p.StateDir, optionsFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read engine options: %w", err)
	}
	var options map[string]any
	if err := json.Unmarshal(text, &options); err != nil {
		return nil, fmt.Errorf("read engine options of %s: %w; want a JSON object such as {\"debug\": true}", path, err)
	}
	// The agent builds the real file with the machine's own layout; which keys
	// are Portolan's does not depend on it.
	if _, err := (engine.Layout{Link: portolan.DefaultLink(), InitPath: "any"}).DaemonJSON(options); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return options, nil
}
