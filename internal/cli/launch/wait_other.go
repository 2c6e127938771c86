//go:build !linux

package launch

import (
	"context"
	"errors"
)

// Gone is for hosts; those are Linux today.
func Gone(context.Context, int) error { return errors.ErrUnsupported }
