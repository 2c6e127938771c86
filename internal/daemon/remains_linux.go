package daemon

import (
	"errors"
	"io/fs"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/machine"
	"github.com/portolan-net/portolan/internal/profile"
)

// Remains says which helper and machine run, for when their daemon is gone:
// zero for none. An error means that their record can't be read.
func Remains(p profile.Profile) (helper, init api.Process, err error) {
	record, err := machine.LoadRecord(p)
	if errors.Is(err, fs.ErrNotExist) {
		return helper, init, nil
	}
	describe := func(process machine.Process) api.Process {
		if !process.Alive() {
			return api.Process{}
		}
		return api.Process{PID: process.PID, Since: process.Since, Version: record.Version}
	}
	return describe(record.Helper), describe(record.Init), err
}
