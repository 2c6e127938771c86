package dns

import (
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/system"
)

// An answer's life is not what somebody sets the clock to.
func TestCacheWhenTheClockJumps(t *testing.T) {
	for _, by := range []time.Duration{-5 * time.Hour, 5 * time.Hour} {
		c, config, now := newCache(nowhere), new(system.NameConfig), time.Now()
		raw := ask("www.example", miekg.TypeA)
		q := mustParse(t, raw)
		if _, ok := c.lookup(q, config, now); ok {
			t.Fatal("an empty cache knows an answer")
		}
		c.store(q, config, addressAnswer(raw, "192.0.2.1"), elsewhere, now)
		if found, ok := c.lookup(q, config, lab.Jumped(now, by).Add(20*time.Second)); !ok || found.age != 20*time.Second {
			t.Errorf("clock set by %v: after 20 s of 60 lookup = %+v, %v", by, found, ok)
		}
		if _, ok := c.lookup(q, config, lab.Jumped(now, by).Add(time.Minute)); ok {
			t.Errorf("clock set by %v: the answer outlives its TTL", by)
		}
	}
}
