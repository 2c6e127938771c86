package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/machine"
)

// limits names what this computer is short of, and what to do about it.
func (d *daemon) limits() []string {
	var found []string
	if text := stateProblem(d.Profile.StateDir); text != "" {
		found = append(found, text)
	}
	if text := descriptorProblem(); text != "" {
		found = append(found, text)
	}
	if text := memoryProblem(machine.MemoryGroup(d.told()), "/proc/meminfo"); text != "" {
		found = append(found, text)
	}
	return found
}

// stateProblem looks at the file system of the state directory, which holds all
// that the engine writes.
func stateProblem(dir string) string {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Sprintf("the state directory %s can't be looked at: %v", dir, err)
	}
	free := fs.Bavail * uint64(fs.Bsize) //nolint:gosec // a block size is positive
	switch {
	case fs.Flags&unix.ST_RDONLY != 0:
		return fmt.Sprintf("the state directory %s is read-only: images, containers and logs can't change; make it writable", dir)
	case free < room:
		return fmt.Sprintf("the state directory %s is full, %d kB are free: the engine can't write; free some space there, for example with: docker system prune", dir, free>>10)
	}
	return ""
}

// descriptorProblem says that nine tenths of the descriptors are in use.
func descriptorProblem() string {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return ""
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil && !errors.Is(err, unix.EMFILE) {
		return ""
	}
	used := uint64(len(files))
	if err != nil {
		used = limit.Cur
	}
	if used < limit.Cur/10*9 {
		return ""
	}
	return fmt.Sprintf("%d of the daemon's %d descriptors are in use: new connections wait or fail until others end; raise the limit with: prlimit --pid %d --nofile=%d",
		used, limit.Cur, os.Getpid(), 4*limit.Cur)
}

// spareListener accepts even when no descriptor is left, so that the daemon can
// say so. Accept is called by one goroutine.
type spareListener struct {
	*net.UnixListener
	spare []*os.File
}

// spares is one for the connection and one for what answers it.
const spares = 2

func newSpareListener(listener *net.UnixListener) *spareListener {
	l := &spareListener{UnixListener: listener}
	l.refill()
	return l
}

// refill takes spares back as soon as there are descriptors.
func (l *spareListener) refill() {
	for len(l.spare) < spares {
		file, err := os.Open(os.DevNull)
		if err != nil {
			return
		}
		l.spare = append(l.spare, file)
	}
}

// Accept is net.Listener's.
func (l *spareListener) Accept() (net.Conn, error) {
	l.refill()
	conn, err := l.UnixListener.Accept()
	switch {
	case errors.Is(err, unix.EMFILE):
		l.drop()
		return l.UnixListener.Accept()
	case errors.Is(err, net.ErrClosed):
		l.drop()
	}
	return conn, err
}

func (l *spareListener) drop() {
	for _, file := range l.spare {
		_ = file.Close()
	}
	l.spare = nil
}
