package dns

import (
	"bytes"
	"container/list"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/system"
)

// The cache of answers from the host's resolvers.
//
// Theory of operation. An answer is kept as it came, for as long as the shortest
// of its records lives, at most maxLife; a negative one for as long as its SOA
// allows (RFC 2308 section 5), at most maxNegativeLife, and not at all without
// one. From here it goes out with the client's id and spelling of the name, with
// its TTLs less the time it has been here, and without AA.
//
//	not kept                                why
//	SERVFAIL, REFUSED and other errors      the next one may know better
//	TC                                      it is not the answer
//	answers to queries with EDNS options    they may be for that client alone (cookies, client subnet)
//	anything of a resolver on the host      systemd-resolved, dnsmasq and their kin keep a cache
//	                                        themselves, and send names elsewhere when a VPN comes,
//	                                        with no trace in resolv.conf
//	what a later resolver said in place     the first may know better when it is back; the
//	of the first                            forwarder's caller sees to that
//
// All that is here came under one NameConfig, in one network. Under another one, nothing of it is
// known any more, and what was asked before is not kept when it comes.
const (
	maxLife         = time.Hour
	maxNegativeLife = 5 * time.Minute

	// The bounds of memory: a cached address takes some 200 bytes with its key.
	maxCached      = 8192
	maxCachedBytes = 2 << 20
	maxCachedSize  = 8 << 10 // of one answer
)

// cacheKey is all of a plain query that can change its answer.
type cacheKey struct {
	name         string // lower case
	qtype, class uint16
	rd, flags    byte // RD; AD and CD
	edns, dnssec bool
}

// cached is one answer.
type cached struct {
	key     cacheKey
	answer  []byte // with id 0 and without AA
	ttls    []int  // where in answer the TTLs are
	from    netip.AddrPort
	stored  time.Time
	expires time.Time
}

// cache is safe for concurrent use.
type cache struct {
	// hostOwn tells the addresses whose resolvers keep a cache themselves.
	hostOwn func(netip.Addr) bool

	mu      sync.Mutex // guards what follows
	config  *system.NameConfig
	entries map[cacheKey]*list.Element // of *cached
	recent  list.List                  // the last used first
	size    int                        // bytes of all answers
}

// newCache is given what tells the host's own addresses besides loopback.
func newCache(local func(netip.Addr) bool) *cache {
	return &cache{
		hostOwn: func(a netip.Addr) bool { return a.IsLoopback() || local(a) },
		entries: make(map[cacheKey]*list.Element),
	}
}

// hit is what a lookup found.
type hit struct {
	answer []byte
	from   netip.AddrPort // the resolver that gave it
	age    time.Duration
	left   time.Duration // until it is forgotten
}

// lookup returns the answer to q under config, if there is one.
func (c *cache) lookup(q *query, config *system.NameConfig, now time.Time) (hit, bool) {
	if !q.plain {
		return hit{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.useLocked(config)
	element, ok := c.entries[keyOf(q)]
	if !ok {
		return hit{}, false
	}
	e := element.Value.(*cached)
	if !now.Before(e.expires) {
		c.removeLocked(element)
		return hit{}, false
	}
	c.recent.MoveToFront(element)
	age := now.Sub(e.stored)
	return hit{answer: e.forClient(q, age), from: e.from, age: age, left: e.expires.Sub(now)}, true
}

// store keeps an answer that from gave to q under config, if it may be kept.
func (c *cache) store(q *query, config *system.NameConfig, answer []byte, from netip.AddrPort, now time.Time) {
	if !q.plain || len(answer) > maxCachedSize || c.hostOwn(from.Addr()) {
		return
	}
	life, ttls := lifetime(answer, q)
	if life <= 0 {
		return
	}
	e := &cached{key: keyOf(q), answer: bytes.Clone(answer), ttls: ttls, from: from, stored: now, expires: now.Add(life)}
	e.answer[0], e.answer[1] = 0, 0
	e.answer[2] &^= flagAA
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.config != config {
		return // asked before the change
	}
	if old, ok := c.entries[e.key]; ok {
		c.removeLocked(old)
	}
	c.entries[e.key] = c.recent.PushFront(e)
	c.size += len(e.answer)
	for c.recent.Len() > maxCached || c.size > maxCachedBytes {
		c.removeLocked(c.recent.Back())
	}
}

// useLocked forgets everything when config is another one.
func (c *cache) useLocked(config *system.NameConfig) {
	if c.config == config {
		return
	}
	c.config, c.size = config, 0
	clear(c.entries)
	c.recent.Init()
}

func (c *cache) removeLocked(element *list.Element) {
	e := c.recent.Remove(element).(*cached)
	delete(c.entries, e.key)
	c.size -= len(e.answer)
}

// forClient is the answer as q wants it, after age.
func (e *cached) forClient(q *query, age time.Duration) []byte {
	out := bytes.Clone(e.answer)
	out[0], out[1] = q.raw[0], q.raw[1]
	copy(out[headerSize:q.questionEnd], q.raw[headerSize:q.questionEnd])
	gone := uint32(age / time.Second)
	for _, at := range e.ttls {
		if ttl := binary.BigEndian.Uint32(out[at:]); ttl < 1<<31 {
			binary.BigEndian.PutUint32(out[at:], ttl-min(gone, ttl))
		}
	}
	return out
}

func keyOf(q *query) cacheKey {
	return cacheKey{
		name: q.name, qtype: q.qtype, class: q.class,
		rd: q.raw[2] & flagRD, flags: q.raw[3] & (flagAD | flagCD),
		edns: q.edns, dnssec: q.do,
	}
}

// lifetime returns how long an answer to q may be kept, 0 for not at all, and
// where its TTLs are.
func lifetime(answer []byte, q *query) (life time.Duration, ttls []int) {
	rcode := answer[3] & 0xf
	if answer[2]&flagTC != 0 || rcode != miekg.RcodeSuccess && rcode != miekg.RcodeNameError ||
		count(answer, 0) != 1 || len(answer) < q.questionEnd {
		return 0, nil
	}
	shortest, soa, found := uint32(maxLife/time.Second), false, false
	at := q.questionEnd
	for section := 1; section < sections; section++ {
		for range count(answer, section) {
			rr, ok := recordAt(answer, at)
			if !ok {
				return 0, nil
			}
			at = rr.end
			if rr.isOPT {
				continue
			}
			rrtype := binary.BigEndian.Uint16(answer[rr.fixed:])
			shortest = min(shortest, ttlAt(answer, rr.fixed+4))
			ttls = append(ttls, rr.fixed+4)
			found = found || section == 1 && (rrtype == q.qtype || q.qtype == miekg.TypeANY)
			if section == 2 && rrtype == miekg.TypeSOA && rr.end-rr.fixed >= recordRR+soaNumbers {
				soa = true
				shortest = min(shortest, ttlAt(answer, rr.end-4)) // MINIMUM
			}
		}
	}
	life = time.Duration(shortest) * time.Second
	switch {
	case at != len(answer):
		return 0, nil
	case found && rcode == miekg.RcodeSuccess:
		return life, ttls
	case soa:
		return min(life, maxNegativeLife), ttls
	}
	return 0, nil
}

// soaNumbers is the length of an SOA's five numbers (RFC 1035 section 3.3.13).
const soaNumbers = 20

// ttlAt reads a TTL; one with the highest bit set is 0 (RFC 2181 section 8).
func ttlAt(msg []byte, at int) uint32 {
	ttl := binary.BigEndian.Uint32(msg[at:])
	if ttl >= 1<<31 {
		return 0
	}
	return ttl
}
