package daemon

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// The setting counts where a test passes, and says why where it does not.
func TestUDPOffload(t *testing.T) {
	var o udpOffload
	var result error
	tests, log := 0, slog.New(slog.DiscardHandler)
	test := func() error { tests++; return result }
	expect := func(when string, on bool, problem string, count int) {
		t.Helper()
		if o.On() != on || !strings.Contains(o.problem(), problem) || (problem == "") != (o.problem() == "") || tests != count {
			t.Errorf("%s: on is %t, the problem %q, after %d tests", when, o.On(), o.problem(), tests)
		}
	}
	o.want(true, log)
	expect("before there is a router", false, "", 0)
	o.use(test, log)
	expect("with a router", true, "", 1)
	o.want(true, log)
	expect("another setting changes", true, "", 1)
	o.want(false, log)
	expect("off", false, "", 1)
	result = errors.New("test in the router: it is lost")
	o.want(true, log)
	expect("a test fails", false, "portolan.udpOffload has no effect, datagrams go one by one: test in the router: it is lost", 3)
	o.want(false, log)
	expect("off after that", false, "", 3)
	result = nil
	o.want(true, log)
	o.use(func() error { return errors.New("no") }, log)
	expect("another router", false, "no", 4)
}
