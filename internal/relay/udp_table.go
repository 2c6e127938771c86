package relay

import (
	"container/list"
	"net/netip"
)

// Theory of operation: shares
//
// One container, or the containers of one network together (each can forge the
// addresses of all), must not push the associations of others out of the table,
// nor use up the memory for peers. So each source has a share of the table, and
// each network. A source at the bound of its share loses its own longest idle
// association; only when the whole table is full may it be somebody else's.
//
//	bound        of
//	Max          all
//	Max/2        one network
//	Max/4        one source address
//	maxPeers     addresses that one association remembers
//	maxAllPeers  addresses that all remember, halfway: an association below its
//	             fair part of them may always add, one above it replaces

const (
	networkPart = 2
	sourcePart  = 4
	// maxPeers: peer-to-peer programs speak to thousands from one socket.
	maxPeers = 4096
	// maxAllPeers are some 5 MB.
	maxAllPeers = 64 << 10
)

// shareOf is an association's place in one share.
type shareOf struct {
	key   netip.Prefix
	of    *list.List
	place *list.Element
}

// sharesOf names the shares that a source belongs to, with their bounds: its own
// first. The second is invalid without a network.
func (u *UDP) sharesOf(source netip.Addr) (keys [2]netip.Prefix, bounds [2]int) {
	keys[0] = netip.PrefixFrom(source, source.BitLen())
	if u.cfg.Network != nil {
		keys[1] = u.cfg.Network(source)
	}
	return keys, [2]int{max(1, u.cfg.Max/sourcePart), max(1, u.cfg.Max/networkPart)}
}

// makeRoomLocked ends associations until one more of source fits.
func (u *UDP) makeRoomLocked(source netip.Addr) {
	keys, bounds := u.sharesOf(source)
	for i, key := range keys {
		for of := u.shares[key]; of != nil && of.Len() >= bounds[i]; {
			u.endLocked(front(of))
		}
	}
	for len(u.table) >= u.cfg.Max {
		u.endLocked(u.oldestLocked())
	}
}

// joinLocked counts a new association in its shares.
func (u *UDP) joinLocked(a *association) {
	keys, _ := u.sharesOf(a.key.source.Addr())
	for _, key := range keys {
		if !key.IsValid() || len(a.shares) > 0 && key == a.shares[0].key {
			continue
		}
		of := u.shares[key]
		if of == nil {
			of = list.New()
			u.shares[key] = of
		}
		a.shares = append(a.shares, shareOf{key, of, of.PushBack(a)})
	}
}

// leaveLocked is the opposite of joinLocked.
func (u *UDP) leaveLocked(a *association) {
	for _, s := range a.shares {
		if s.of.Remove(s.place); s.of.Len() == 0 {
			delete(u.shares, s.key)
		}
	}
}

// oldestLocked returns the association that has been idle longest. The table
// must not be empty.
func (u *UDP) oldestLocked() *association {
	fresh, stream := front(u.fresh), front(u.stream)
	if stream == nil || fresh != nil && fresh.last.Before(stream.last) {
		return fresh
	}
	return stream
}

// rememberLocked lets answers of peer pass from now on.
func (u *UDP) rememberLocked(a *association, peer netip.Addr) {
	if _, known := a.peers[peer]; known {
		return
	}
	if a.peers == nil {
		a.peers = make(map[netip.Addr]struct{}, 1)
	}
	bound := maxPeers
	if u.peers >= maxAllPeers {
		bound = min(bound, max(1, maxAllPeers/max(1, len(u.table))))
	}
	for any := range a.peers { // which one goes matters little at this size
		if len(a.peers) < bound {
			break
		}
		delete(a.peers, any)
		u.peers--
	}
	a.peers[peer] = struct{}{}
	u.peers++
}

func front(of *list.List) *association {
	if e := of.Front(); e != nil {
		return e.Value.(*association)
	}
	return nil
}
