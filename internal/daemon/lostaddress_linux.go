package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/portolan-net/portolan/internal/relay"
)

// Theory of operation: addresses that the host loses
//
// A connection outlives its own address: what it sends is dropped within the
// kernel, and its program hears nothing for a quarter of an hour. A VPN that goes
// down leaves all of its connections like that, those of containers too. The host's
// programs have to wait; for containers we end the connection, with an RST, when
// its address has been away for
//
//	interface         time     because
//	gone as well      2 s      a tunnel was taken down; one that is set up anew is mostly back by then
//	still there       30 s     sleep, Wi-Fi, a cable, a new lease: the address comes back, and
//	                           with it every connection
//
// A datagram socket has no address of its own, and needs nothing of this.
const (
	tunnelAway  = 2 * time.Second
	addressAway = 30 * time.Second
)

// hostAddresses are what the host has at one moment.
type hostAddresses struct {
	at    map[netip.Addr]int // the interface of each address
	links map[int]bool
}

// lookAtAddresses asks the kernel.
func lookAtAddresses() (hostAddresses, error) {
	found := hostAddresses{at: map[netip.Addr]int{}, links: map[int]bool{}}
	links, err := netlink.LinkList()
	if err != nil {
		return found, fmt.Errorf("list interfaces: %w", err)
	}
	for _, link := range links {
		found.links[link.Attrs().Index] = true
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return found, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			found.at[addr.Unmap()] = a.LinkIndex
		}
	}
	return found, nil
}

// lostAddresses remembers the addresses that are away.
type lostAddresses struct {
	had  map[netip.Addr]int // at the last look
	away map[netip.Addr]awayAddress
}

type awayAddress struct {
	since time.Time
	link  int // where it was
}

// look returns the addresses that are lost now, and when the next may be: 0 for
// never, unless something changes.
func (l *lostAddresses) look(now time.Time, have hostAddresses) (lost []netip.Addr, next time.Duration) {
	if l.away == nil {
		l.away = map[netip.Addr]awayAddress{}
	}
	for addr, link := range l.had {
		if _, still := have.at[addr]; !still {
			l.away[addr] = awayAddress{now, link}
		}
	}
	l.had = have.at
	for addr, a := range l.away {
		_, back := have.at[addr]
		left := tunnelAway - now.Sub(a.since)
		if left <= 0 && have.links[a.link] {
			left = addressAway - now.Sub(a.since)
		}
		switch {
		case back:
			delete(l.away, addr)
		case left <= 0:
			delete(l.away, addr)
			lost = append(lost, addr)
		case next == 0 || left < next:
			next = left
		}
	}
	return lost, next
}

// endLost ends connections whose address the host has lost, until ctx ends.
func (d *daemon) endLost(ctx context.Context, log *slog.Logger) {
	var known lostAddresses
	for {
		var again <-chan time.Time
		if next := known.end(log); next > 0 {
			again = time.After(next)
		}
		select {
		case <-ctx.Done():
			return
		case <-d.addrsChanged:
		case <-again:
		}
	}
}

// end looks once, and returns when to look again unless something changes, or 0. It
// asks for the addresses of this moment: a daemon that was stopped for a while would
// otherwise believe that one is away which has long come back.
func (l *lostAddresses) end(log *slog.Logger) (next time.Duration) {
	have, err := lookAtAddresses()
	if err != nil {
		log.Debug("addresses of the host are not known", "err", err)
		return tunnelAway
	}
	lost, next := l.look(time.Now(), have)
	for _, addr := range lost {
		if n := relay.ResetFrom(addr); n > 0 {
			log.Info("connections ended: the host has lost their address", "addr", addr, "count", n)
		}
	}
	return next
}
