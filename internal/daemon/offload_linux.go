package daemon

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/mmsg"
	"github.com/portolan-net/portolan/internal/router"
	"github.com/portolan-net/portolan/internal/settings"
)

// udpOffload is the setting udpOffload, which counts only where a test of the host
// and of the router finds that it works.
type udpOffload struct {
	mmsg.Offload

	mu     sync.Mutex // guards wanted and test, and that one tests at a time
	wanted bool
	test   func() error          // nil before the services start
	failed atomic.Pointer[error] // why it is off though wanted; nil when it is not
}

// use puts the setting in force where test looks.
func (o *udpOffload) use(test func() error, log *slog.Logger) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.test = test
	o.chooseLocked(log)
}

// want puts the setting in force.
func (o *udpOffload) want(wanted bool, log *slog.Logger) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.wanted == wanted {
		return
	}
	o.wanted = wanted
	o.chooseLocked(log)
}

// chooseLocked tests, unless there is nothing to test yet. On a busy computer a
// datagram can be late: a second test decides.
func (o *udpOffload) chooseLocked(log *slog.Logger) {
	o.failed.Store(nil)
	if !o.wanted || o.test == nil {
		o.Set(false)
		return
	}
	err := o.test()
	if err != nil {
		err = o.test()
	}
	if err != nil {
		o.failed.Store(&err)
		log.Warn("datagrams are not joined", "setting", settings.KeyUDPOffload, "err", err)
	}
	o.Set(err == nil)
}

// testOffload tests both sides.
func testOffload(path *router.Datapath) error {
	if err := mmsg.Check(hostSocket); err != nil {
		return fmt.Errorf("test on the host: %w", err)
	}
	if err := path.CheckOffload(); err != nil {
		return fmt.Errorf("test in the router: %w", err)
	}
	return nil
}

func hostSocket(six bool) (int, error) {
	family := unix.AF_INET
	if six {
		family = unix.AF_INET6
	}
	return unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

// problem is what status says; "" when all is well.
func (o *udpOffload) problem() string {
	err := o.failed.Load()
	if err == nil {
		return ""
	}
	return fmt.Sprintf("the setting %s has no effect, datagrams go one by one: %v; switch it off: portolan settings unset %s",
		settings.KeyUDPOffload, *err, settings.KeyUDPOffload)
}
