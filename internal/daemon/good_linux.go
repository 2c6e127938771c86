package daemon

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/spec"
)

// goodOptionsFile holds the engine options with which dockerd last answered. It
// outlives the machine: the next one may be asked to start with worse ones.
func goodOptionsFile(p profile.Profile) string {
	return filepath.Join(p.StateDir, "engine-options.good.json")
}

// loadGoodOptions reads them; nil for none.
func loadGoodOptions(p profile.Profile) (options map[string]any, err error) {
	text, err := os.ReadFile(goodOptionsFile(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &options)
	}
	return options, err
}

// keepGoodLocked notes that dockerd answers with what it is configured with.
func (d *daemon) keepGoodLocked() {
	good := d.configured.Options
	if len(good) == 0 && len(d.spec.GoodOptions) == 0 || reflect.DeepEqual(good, d.spec.GoodOptions) {
		return
	}
	text, err := json.Marshal(good)
	if err == nil {
		err = spec.WriteFile(goodOptionsFile(d.Profile), text)
	}
	if err == nil {
		next := d.spec
		next.GoodOptions = good
		err = d.setSpecLocked(next)
	}
	if err != nil {
		d.Log.Warn("keep good engine options", "err", err)
	}
}
