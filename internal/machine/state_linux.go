package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/profile"
)

// The state directory is locked while a machine uses it, by the machine's
// helper, and the lock's text says who that is. So a machine is found that lost
// its runtime directory, with the record in it.

// stateHolder is the text of the lock.
type stateHolder struct {
	Helper Process `json:"helper"`
	RunDir string  `json:"runDir"`
}

func stateLock(p profile.Profile) string { return filepath.Join(p.StateDir, "lock") }

// lockState takes the state directory for this machine alone: two engines in
// one directory would destroy it. The lock goes with the helper.
func lockState(p profile.Profile) (*os.File, error) {
	file, err := os.OpenFile(stateLock(p), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = stateInUse(p)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// holdState is lockState for a helper: the lock names this process.
func holdState(p profile.Profile) (*os.File, error) {
	lock, err := lockState(p)
	if err != nil {
		return nil, err
	}
	helper, err := identify(os.Getpid())
	if err == nil {
		err = json.NewEncoder(truncated{lock}).Encode(stateHolder{Helper: helper, RunDir: p.RunDir})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", stateLock(p), err), lock.Close())
	}
	return lock, nil
}

// truncated is a file that every Write fills anew.
type truncated struct{ *os.File }

func (t truncated) Write(text []byte) (int, error) {
	if err := t.Truncate(0); err != nil {
		return 0, err
	}
	return t.WriteAt(text, 0)
}

// findHolder says who uses the state directory; false when nobody does, or
// nobody can tell.
func findHolder(p profile.Profile) (stateHolder, bool) {
	var h stateHolder
	text, err := os.ReadFile(stateLock(p))
	if err != nil || json.Unmarshal(text, &h) != nil {
		return stateHolder{}, false
	}
	return h, h.Helper.Alive()
}

// Lost returns the helper of the profile's machine when the runtime directory
// was removed under it; zero for none.
func Lost(p profile.Profile) Process {
	h, found := findHolder(p)
	if _, err := os.Stat(recordPath(p)); !found || h.RunDir != p.RunDir || !errors.Is(err, fs.ErrNotExist) {
		return Process{}
	}
	return h.Helper
}

// stateInUse says who uses the state directory and how to end that.
func stateInUse(p profile.Profile) error {
	h, found := findHolder(p)
	switch {
	case !found:
		return fmt.Errorf("state directory %s: another machine uses it; take that one down, or set PORTOLAN_STATE_DIR", p.StateDir)
	case h.RunDir == p.RunDir:
		return fmt.Errorf("state directory %s: a machine uses it whose runtime directory was removed (router helper pid %d); end it with: portolan --profile %s down",
			p.StateDir, h.Helper.PID, p.Name)
	}
	return fmt.Errorf("state directory %s: another machine uses it (router helper pid %d, runtime directory %s); take that one down with PORTOLAN_RUNTIME_DIR=%s, or set PORTOLAN_STATE_DIR",
		p.StateDir, h.Helper.PID, h.RunDir, filepath.Dir(h.RunDir))
}

// CheckStateUnused is an error while a machine uses the state directory.
func CheckStateUnused(p profile.Profile) error {
	lock, err := lockState(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return lock.Close()
}

// stopLost ends a machine that Lost finds. Its helper ends PID 1.
func stopLost(p profile.Profile) error {
	helper := Lost(p)
	if helper.PID == 0 {
		return nil
	}
	if err := unix.Kill(helper.PID, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end router helper %d: %w", helper.PID, err)
	}
	if err := waitGone(helper, stopWait); err != nil {
		return err
	}
	return removeTraces(p)
}
