package daemon

import (
	"errors"

	"github.com/portolan-net/portolan/internal/machine"
	"github.com/portolan-net/portolan/internal/profile"
)

// ForceDown takes down what a daemon left that did not clean up; nothing when
// nothing is left. The caller holds the profile's lock.
func ForceDown(p profile.Profile) error {
	d := daemon{Options: Options{Profile: p}}
	return errors.Join(machine.Stop(p), d.removeRunDir())
}
