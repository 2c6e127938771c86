package publish

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
)

// holderSearch bounds the search for a taken port's holder: on a host with very
// many processes an answer without a name is better than a late one. The deputy
// ends its own search before, and then names the user at least.
const holderSearch = 3 * time.Second

// holder says who holds the port that b wants, as the end of an error text; ""
// when that can't be found out.
func (t *Table) holder(ctx context.Context, b portolan.Binding) string {
	t.mu.Lock()
	for other, e := range t.entries {
		if e.listener != nil && other.overlaps(keyOf(b)) {
			at := e.binding.Container
			t.mu.Unlock()
			return t.publishedBy(ctx, at)
		}
	}
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, holderSearch)
	defer cancel()
	return t.cfg.Holder(ctx, b)
}

// publishedBy names a container of our own.
func (t *Table) publishedBy(ctx context.Context, at netip.AddrPort) string {
	if t.cfg.Name != nil {
		ctx, cancel := context.WithTimeout(ctx, holderSearch)
		defer cancel()
		if name := t.cfg.Name(ctx, at.Addr()); name != "" {
			return fmt.Sprintf(": published already by container %s (%s)", name, at)
		}
	}
	return fmt.Sprintf(": published already by the container at %s", at)
}
