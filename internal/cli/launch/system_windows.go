package launch

import (
	"errors"
	"os"
	"syscall"
)

// No machine runs on Windows today: nothing to lock, nobody to signal.

var errHeld = errors.New("the lock is held")

func flock(*os.File) error { return errors.ErrUnsupported }

// CloseOnExec keeps an inherited descriptor away from this process's children.
func CloseOnExec(*os.File) {}

func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

func terminate(p *os.Process) error { return p.Kill() }
