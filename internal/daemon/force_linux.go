package daemon

import (
	"context"

	"github.com/portolan-net/portolan/internal/profile"
)

// ForceDown takes down what a daemon left that did not clean up, containers
// first; nothing when nothing is left. The caller holds the profile's lock.
func ForceDown(ctx context.Context, p profile.Profile) error {
	d := daemon{Options: Options{Profile: p}}
	return d.stopMachine(ctx, true)
}
