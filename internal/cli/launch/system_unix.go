//go:build unix

package launch

import (
	"errors"
	"os"
	"syscall"
)

// errHeld is what flock(2) says when somebody else has the lock.
const errHeld = syscall.EWOULDBLOCK

func flock(file *os.File) error {
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// CloseOnExec keeps an inherited descriptor away from this process's children.
func CloseOnExec(file *os.File) { syscall.CloseOnExec(int(file.Fd())) }

// ownSession keeps the terminal's signals away from the daemon.
func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
