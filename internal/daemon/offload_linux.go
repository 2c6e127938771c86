package daemon

import (
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/mmsg"
	"github.com/portolan-net/portolan/internal/router"
	"github.com/portolan-net/portolan/internal/settings"
)

// udpOffload is the setting udpOffload, which counts only where a test of the host
// and of the router finds that it works.
type udpOffload struct {
	mmsg.Offload

	mu     sync.Mutex // guards the rest
	wanted bool
	test   func() error // nil before the services start
	failed error        // why it is off though wanted
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

// chooseLocked tests, unless there is nothing to test yet.
func (o *udpOffload) chooseLocked(log *slog.Logger) {
	o.failed = nil
	if !o.wanted || o.test == nil {
		o.Set(false)
		return
	}
	if o.failed = o.test(); o.failed != nil {
		log.Warn("datagrams are not joined", "setting", settings.KeyUDPOffload, "err", o.failed)
	}
	o.Set(o.failed == nil)
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
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failed == nil {
		return ""
	}
	return fmt.Sprintf("the setting %s has no effect, datagrams go one by one: %v; switch it off: portolan settings unset %s",
		settings.KeyUDPOffload, o.failed, settings.KeyUDPOffload)
}
