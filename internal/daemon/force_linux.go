package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/portolan-net/portolan/internal/hostservice"
	"github.com/portolan-net/portolan/internal/profile"
)

// ForceDown takes down what a daemon left that did not clean up, containers
// first; nothing when nothing is left. The caller holds the profile's lock.
func ForceDown(ctx context.Context, p profile.Profile) error {
	d := daemon{Options: Options{Profile: p}}
	err := d.stopMachine(ctx, true)
	// A daemon that was killed did not close it.
	if rmErr := os.Remove(p.ControlSocket()); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return errors.Join(err, removeForwardSockets(p))
}

// removeForwardSockets removes what daemon and deputy, killed at once, left of
// forwards, which may be anywhere.
func removeForwardSockets(p profile.Profile) error {
	table := forwardTable(p, "")
	_ = table.Load() // of a bad file it has what was good
	var err error
	for _, e := range table.Listens(hostservice.Host) {
		if e.Network == "unix" {
			err = errors.Join(err, hostservice.RemoveAbandoned(e.Address))
		}
	}
	return err
}
