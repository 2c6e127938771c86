package dns

import (
	"net/netip"
	"testing"

	miekg "github.com/miekg/dns"
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
