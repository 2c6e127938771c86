package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

// BenchmarkForward measures one query after the other through a resolver on
// loopback that answers at once; its share is in the numbers.
func BenchmarkForward(b *testing.B) {
	query := ask("www.example", miekg.TypeA)
	answer := addressAnswer(query, "192.0.2.1")
	s := newSetup(b, echoing(b, answer))
	answers := make(chan []byte, 1)
	for b.Loop() {
		s.HandleUDP(query, container, func(answer []byte) { answers <- answer })
		<-answers
	}
}

func BenchmarkForwardParallel(b *testing.B) {
	query := ask("www.example", miekg.TypeA)
	s := newSetup(b, echoing(b, addressAnswer(query, "192.0.2.1")))
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		answers := make(chan []byte, 1)
		for pb.Next() {
			s.HandleUDP(query, container, func(answer []byte) { answers <- answer })
			<-answers
		}
	})
}

func BenchmarkLocal(b *testing.B) {
	s := newSetup(b)
	query := ask("host.docker.internal", miekg.TypeA)
	answers := make(chan []byte, 1)
	for b.Loop() {
		s.HandleUDP(query, container, func(answer []byte) { answers <- answer })
		<-answers
	}
}

// echoing answers with that answer under the query's id.
func echoing(b *testing.B, answer []byte) *resolver {
	return startResolver(b, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		out := append([]byte(nil), answer...)
		copy(out, query[:2])
		return [][]byte{out}
	})
}

// BenchmarkCached asks for names that are all in the cache, over and over, as many
// clients do.
func BenchmarkCached(b *testing.B) {
	s, queries := newCached(b)
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		answers := make(chan []byte, 1)
		for i := 0; pb.Next(); i++ {
			s.HandleUDP(queries[i%len(queries)], container, func(answer []byte) { answers <- answer })
			<-answers
		}
	})
}

// BenchmarkCachedAt50000 asks 50,000 times a second and tells how long answers
// take; the 99th percentile is to stay below a millisecond.
func BenchmarkCachedAt50000(b *testing.B) {
	const pace = time.Second / 50_000
	s, queries := newCached(b)
	took := make([]time.Duration, b.N)
	slots := make(chan struct{}, maxQueued/2) // what comes when the queue is full is dropped
	b.ResetTimer()
	began := time.Now()
	for i := range b.N {
		if ahead := pace*time.Duration(i) - time.Since(began); ahead > 100*time.Microsecond {
			time.Sleep(ahead)
		}
		slots <- struct{}{}
		start := time.Now()
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 17, 1, byte(i)}), 40000)
		s.HandleUDP(queries[i%len(queries)], client, func([]byte) {
			took[i] = time.Since(start)
			<-slots
		})
	}
	for range cap(slots) {
		slots <- struct{}{}
	}
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "queries/s")
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkChange measures how long a change of resolv.conf takes to count, from
// before the new file takes the old one's place to the end of the first right answer.
// Two resolvers of this computer take turns.
func BenchmarkChange(b *testing.B) {
	path := filepath.Join(b.TempDir(), "resolv.conf")
	resolvers := []*resolver{answering(b, "192.0.2.1", 0), answering(b, "192.0.2.2", 0)}
	replace := func(i int) {
		text := fmt.Sprintf("nameserver [%s]:%d\n", resolvers[i%2].addr.Addr(), resolvers[i%2].addr.Port())
		if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o644), os.Rename(path+".new", path)); err != nil {
			b.Fatal(err)
		}
	}
	replace(0)
	log := slog.New(slog.DiscardHandler)
	watcher, err := system.NewNameWatcher(path, "", os.Open, log)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	s := setup{Server: New(Config{Link: portolan.DefaultLink(), Source: watcher, Log: log}), ctx: ctx}
	done := make(chan error, 2)
	go func() { done <- watcher.Run(ctx) }()
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done; <-done }()
	query, took := ask("www.example", miekg.TypeA), []time.Duration(nil)
	for i := 1; b.Loop(); i++ {
		time.Sleep(time.Duration(i%10) * 10 * time.Millisecond) // at any moment of what the watcher does
		want, began := fmt.Sprintf("192.0.2.%d", 1+i%2), time.Now()
		replace(i)
		for got := ""; got != want; {
			m, _ := s.udp(b, query)
			got = firstA(m)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "p50-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1e3, "max-ms")
}

// newCached is a server that has the answers to a thousand queries.
func newCached(b *testing.B) (s setup, queries [][]byte) {
	b.Helper()
	s = newSetup(b)
	config, now := s.names.NameConfig(), time.Now()
	for i := range 1000 {
		query := ask(fmt.Sprintf("www%d.example", i), miekg.TypeA)
		q := mustParse(b, query)
		s.cache.lookup(q, config, now)
		s.cache.store(q, config, addressAnswer(query, "192.0.2.1"), elsewhere, now)
		queries = append(queries, query)
	}
	return s, queries
}
