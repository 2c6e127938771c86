//go:build !linux

package publish

import (
	"context"

	"github.com/portolan-net/portolan/internal/portolan"
)

// HolderOf can't tell here.
func HolderOf(context.Context, portolan.Binding, func(context.Context, int) string) string { return "" }
