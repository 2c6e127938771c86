//go:build !linux

package publish

import (
	"context"

	"github.com/portolan-net/portolan/internal/portolan"
)

// processHolding can't tell here.
func processHolding(context.Context, portolan.Binding) string { return "" }
