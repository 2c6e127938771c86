//go:build !linux

package doctor

import (
	"context"
	"errors"
	"runtime"
)

// systemChecks has one finding to make: hosts are Linux today.
func systemChecks() []check {
	return []check{func(context.Context, Options) []Finding {
		return []Finding{bad(Fail, "system", errors.New("hosts are Linux today, this is "+runtime.GOOS), "use portolan in a Linux VM")}
	}}
}

// Kernel has nothing to try.
func Kernel() ([]Finding, error) { return nil, nil }
