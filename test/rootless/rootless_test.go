// Package rootless shows that what works as root works for an ordinary user,
// and what such a user is told when the system forbids it. Each user is made
// for the test.
package rootless

import (
	"testing"

	"github.com/portolan-net/portolan/internal/stage"
)

// An ordinary user's machine does what root's does.
func TestRootless(t *testing.T) {
	s := stage.UpUser(t)
	t.Run("outbound", func(t *testing.T) { stage.CheckOutbound(t, s) })
}
