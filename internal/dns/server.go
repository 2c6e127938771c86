// Package dns is the machine's resolver, at the link's .7 and ::7. It answers the
// names that Portolan gives (host.docker.internal and its kin) and those in the
// host's hosts file, and forwards everything else, byte for byte, to the resolvers
// that the host itself uses, from ordinary sockets of this process: so a VPN's
// resolver, split DNS and systemd-resolved on 127.0.0.53 work as on the host.
//
// It holds no listener: the datapath hands it datagrams and connections. It is no
// recursive resolver, applies search domains to short names only (search.go; the
// client does to others), and answers no zone transfers. Only egress and the daemon may import it.
//
// # Theory of operation
//
// A query passes these rooms, in order; the first that knows answers:
//
//	parseQuery  malformed: FORMERR or silence; opcodes other than QUERY: NOTIMP
//	local       docker.internal names, localhost, the hosts file, and their PTR
//	cache       what the host's resolvers said a while ago (cache.go)
//	forwarder   a race between the host's resolvers (race.go)
//
// The datapath calls HandleUDP, which only copies and queues; Run starts one
// goroutine for each query and waits for them all. ServeTCP runs on its caller's
// goroutine and waits for its own. Work is bounded in total, for each network and
// for each client.
package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/scarce"
	"github.com/portolan-net/portolan/internal/system"
)

// The bounds. With every resolver down a query lives for silence (race.go), so
// maxQueries allows some 500 queries a second even then.
const (
	maxQueries          = 1024 // over UDP, being answered
	maxQueriesPerClient = 256  // over UDP, queued or being answered
	maxQueued           = 256
	maxConns            = 256 // TCP connections
	maxConnsPerClient   = 64
)

// Config is what New needs.
type Config struct {
	Link   portolan.Link
	Source system.NameSource
	Log    *slog.Logger
	// IPv6 tells whether the machine's IPv6 path works. While it says false our
	// own names have no AAAA. nil means that it works.
	IPv6 func() bool
	// Networks are those of containers, each of which gets a part only of the
	// queries that are answered at a time; nil puts all into one.
	Networks *scarce.Networks
	// Filter tells which families are hidden; asked for each query. nil hides none.
	Filter func() Filter
	// Local tells the host's own addresses besides loopback. nil knows none.
	Local func(netip.Addr) bool
	// Dialer makes the sockets towards the host's resolvers; nil is a plain one
	// that hears of unreachable resolvers.
	Dialer *net.Dialer
}

// Server is the resolver. Make one with New.
type Server struct {
	log     *slog.Logger
	source  system.NameSource
	local   local
	cache   *cache
	forward *forwarder
	filter  func() Filter
	queue   chan datagram
	clients *scarce.Limit // of UDP queries
	conns   *scarce.Limit
}

// datagram is one query over UDP and the way back to its client.
type datagram struct {
	query []byte
	place scarce.Place
	reply func(answer []byte)
}

// New returns a resolver that answers over TCP at once, and over UDP while Run runs.
func New(cfg Config) *Server {
	if cfg.IPv6 == nil {
		cfg.IPv6 = func() bool { return true }
	}
	if cfg.Filter == nil {
		cfg.Filter = func() Filter { return Filter{} }
	}
	if cfg.Local == nil {
		cfg.Local = func(netip.Addr) bool { return false }
	}
	if cfg.Dialer == nil {
		cfg.Dialer = &net.Dialer{Control: hearErrors}
	}
	return &Server{
		log:     cfg.Log,
		source:  cfg.Source,
		local:   local{link: cfg.Link, ipv6: cfg.IPv6},
		cache:   newCache(cfg.Local),
		forward: newForwarder(cfg.Dialer, cfg.Link),
		filter:  cfg.Filter,
		queue:   make(chan datagram, maxQueued),
		clients: scarce.NewLimit(scarce.Bounds{All: maxQueries + maxQueued, Network: (maxQueries + maxQueued) / 2, Source: maxQueriesPerClient}, cfg.Networks),
		conns:   scarce.NewLimit(scarce.Bounds{All: maxConns, Network: maxConns / 2, Source: maxConnsPerClient}, cfg.Networks),
	}
}

// Run answers the queries that HandleUDP takes, until ctx ends; then it waits for
// what it started and returns nil.
func (s *Server) Run(ctx context.Context) error {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	slots := make(chan struct{}, maxQueries)
	for {
		var d datagram
		select {
		case <-ctx.Done():
			return nil
		case d = <-s.queue:
		}
		select {
		case <-ctx.Done():
			return nil
		case slots <- struct{}{}:
		}
		handlers.Go(func() {
			s.respond(ctx, d.query, overUDP, func(answer []byte) {
				<-slots
				s.clients.Leave(d.place)
				if answer != nil {
					d.reply(answer)
				}
			})
		})
	}
}

// HandleUDP takes one query and returns at once; it keeps nothing of query. reply
// is called at most once, from another goroutine, with an answer that fits what
// the client said it can take. A query that is no query, or that comes while too
// many are being answered, gets no reply: the client asks again.
func (s *Server) HandleUDP(query []byte, client netip.AddrPort, reply func(answer []byte)) {
	if len(query) < headerSize || len(query) > maxQuery {
		return
	}
	place, ok := s.clients.Enter(client.Addr())
	if !ok {
		s.log.Debug("query dropped", "client", client)
		return
	}
	select {
	case s.queue <- datagram{query: append([]byte(nil), query...), place: place, reply: reply}:
	default:
		s.clients.Leave(place)
		s.log.Debug("query dropped", "client", client)
	}
}

// respond answers one query: it calls deliver exactly once, with nil when the
// query deserves no answer, and returns when all that it started has ended, which
// may be some time after deliver.
func (s *Server) respond(ctx context.Context, raw []byte, how transport, deliver func(answer []byte)) {
	q, err := parseQuery(raw)
	if err != nil {
		deliver(rejection(raw, err))
		return
	}
	q.hidden = s.filter().of(q)
	s.complete(ctx, q, how, func(f finding) { deliver(fit(f.answer, q, how)) })
}

// resolve finds the answer to one query: it calls found exactly once, and returns
// when all that it started has ended, which may be some time after found.
func (s *Server) resolve(ctx context.Context, q *query, how transport, found func(finding)) {
	names := s.source.NameConfig()
	if answer, known := s.local.answer(q, names.Hosts); known {
		source := FromHosts
		if s.local.owns(q.name) {
			source = FromPortolan
		}
		found(finding{answer: answer, source: source})
		return
	}
	if hit, ok := s.cache.lookup(q, names, time.Now()); ok {
		found(finding{answer: hit.answer, source: FromCache, server: hit.from, age: hit.age, left: hit.left})
		return
	}
	s.forward.exchange(ctx, q, names, how, func(r said) {
		if r.err != nil {
			s.log.Debug("query failed", "name", q.name, "type", q.qtype, "err", r.err)
			found(finding{answer: failure(q, r.err), source: FromNobody, err: r.err})
			return
		}
		if r.first {
			s.cache.store(q, names, r.answer, r.from, time.Now())
		}
		found(finding{answer: r.answer, source: FromResolver, server: r.from})
	})
}

// fit hides what the filter hides, and cuts an answer to what the client takes
// over this transport.
func fit(answer []byte, q *query, how transport) []byte {
	answer = hide(answer, q)
	if how == overTCP {
		return answer
	}
	return truncate(answer, q.udpSize)
}
