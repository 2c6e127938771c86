package daemon

import (
	"errors"
	"io/fs"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/machine"
	"github.com/portolan-net/portolan/internal/profile"
)

// Remains says which helper and machine run, for when their daemon is gone:
// zero for none. A helper alone is all that is known of a machine whose runtime
// directory was removed. An error means that their record can't be read.
func Remains(p profile.Profile) (helper, init api.Process, err error) {
	record, err := machine.LoadRecord(p)
	if errors.Is(err, fs.ErrNotExist) {
		lost := machine.Lost(p)
		return api.Process{PID: lost.PID, Since: lost.Since}, init, nil
	}
	describe := func(process machine.Process) api.Process {
		if !process.Alive() {
			return api.Process{}
		}
		return api.Process{PID: process.PID, Since: process.Since, Version: record.Version}
	}
	return describe(record.Helper), describe(record.Init), err
}
