package bench

import (
	"testing"

	"github.com/portolan-net/portolan/bench/report"
	"github.com/portolan-net/portolan/internal/stage"
)

// BenchmarkAll runs once, whatever b.N is. Its parts can be chosen:
// -bench All/network/bulk.
func BenchmarkAll(b *testing.B) {
	raiseFiles()
	e, r := chosen(), newRecorder()
	s := stage.New(b)
	b.Run("up", func(b *testing.B) { measureUp(b, r, s, e.ups) })
	s.Portolan(b, "up")
	b.Run("idle", func(b *testing.B) { measureMemory(b, r, s, "idle", "idle", e.idleFor) })
	image := writeImage(b)
	s.Docker(b, "load", "-q", "-i", image)
	h := host{s.Lab.Host.Command, serve(b, s.Lab.Host.Command, loopbackHost)}
	ours, portolan := newPortolan(b, s, h)
	engines, others := plainEngines(b, r, s, image)
	b.Run("socket", func(b *testing.B) { measureEngineSocket(b, r, s, e.small) })
	b.Run("proxied", func(b *testing.B) { measureProxied(b, r, s, ours, h, e.bulk) })
	b.Run("run", func(b *testing.B) { measureRun(b, r, append(engines, ours), e.runs) })
	b.Run("network", func(b *testing.B) {
		all := append(references(b), others...)
		for _, p := range peers() {
			if c := p.add(b, r, h); c != nil {
				all = append(all, c)
			}
		}
		all = append(all, portolan...)
		for _, c := range all {
			check(b, c.works(b.Context()))
			r.Contestants = append(r.Contestants, c.Contestant)
		}
		all = append(all, direct(h))
		measureNetwork(b, r, all, e)
	})
	b.Run("later", func(b *testing.B) { measureMemory(b, r, s, "later", "after the run", e.idleFor) })
	r.environment(b, s)
	r.finish(b)
}

// measureNetwork lets all contestants take turns in each row of each round.
func measureNetwork(b *testing.B, r *recorder, all []*contestant, e effort) {
	b.Helper()
	for range e.rounds {
		b.Run("bulk", func(b *testing.B) { measureBulk(b, r, all, e.bulk) })
		b.Run("small", func(b *testing.B) { measureSmall(b, r, all, e.small) })
		b.Run("http", func(b *testing.B) { measureHTTP(b, r, all, e.bulk) })
		b.Run("datagrams", func(b *testing.B) { measureDatagrams(b, r, all, e.bulk) })
		b.Run("dns", func(b *testing.B) { measureDNS(b, r, all, e.small) })
	}
	// The last, for who runs out of descriptors may end.
	b.Run("idleflows", func(b *testing.B) { measureIdleFlows(b, r, all) })
}

// plainEngines are the same engine without Portolan, without and with docker-proxy.
func plainEngines(b *testing.B, r *recorder, s *stage.Stage, image string) (engines []*dockerEngine, found []*contestant) {
	b.Helper()
	const withProxy = report.Plain + ", userland proxy"
	e, c := newPlain(b, s, image, report.Plain, "")
	engines, found = append(engines, e), append(found, c)
	proxy, err := find("docker-proxy")
	if err != nil {
		r.absent(withProxy, err)
		return engines, found
	}
	e, c = newPlain(b, s, image, withProxy, proxy)
	return append(engines, e), append(found, c)
}

// direct asks the name server that resolvers ask, for comparison.
func direct(h host) *contestant {
	return &contestant{
		Contestant: report.Contestant{Name: "the host's own name server"},
		resolver:   &way{client: h.command, addr: nameserver}, carriers: none,
	}
}
