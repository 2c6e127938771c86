package router

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/portolan-net/portolan/internal/portolan"
)

// Router and machine are put on another link and back: each time the container
// reaches everybody from its own address, and nothing of the link before is left.
func TestMove(t *testing.T) {
	l := newLab(t)
	_, stop := l.attachUntil(t, &fakeHandler{open: openEcho})
	before, err := l.dial("tcp", netip.AddrPortFrom(server4, 80), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	checkEcho(t, before)
	stop()

	first := l.link
	other := portolan.Link{V4: netip.MustParsePrefix("10.77.0.0/16"), V6: netip.MustParsePrefix("fd77::/64")}
	for _, link := range []portolan.Link{other, other, first} {
		if err := Move(l.socket, link); err != nil {
			t.Fatalf("move to %s: %v", link.V4, err)
		}
		l.link = link
		l.checkLink(t)
		d, stop := l.attachUntil(t, &fakeHandler{open: openEcho})
		for _, to := range []netip.Addr{server4, server6, link.Host().V4, link.Host().V6} {
			conn, err := l.dial("tcp", netip.AddrPortFrom(to, 80), 5*time.Second)
			if err != nil {
				t.Fatalf("on %s: %v", link.V4, err)
			}
			checkEcho(t, conn)
			conn.Close()
		}
		for _, to := range []netip.Addr{container4, container6} {
			_, err := d.DialTCP(t.Context(), link.Host().For(to), netip.AddrPortFrom(to, 9))
			if err == nil || !strings.Contains(err.Error(), "refused") {
				t.Errorf("on %s, dial a port of the container that nobody serves: %v", link.V4, err)
			}
		}
		stop()
	}
}

// checkLink looks at the machine's end.
func (l *lab) checkLink(t *testing.T) {
	t.Helper()
	var addrs, fixed []netip.Addr
	l.machine.do(t, func() error {
		dev, err := netlink.LinkByName(machineName)
		if err != nil {
			return err
		}
		list, err := netlink.AddrList(dev, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range list {
			if addr, _ := netip.AddrFromSlice(a.IP); !addr.IsLinkLocalUnicast() {
				addrs = append(addrs, addr.Unmap())
			}
		}
		neighs, err := netlink.NeighList(dev.Attrs().Index, netlink.FAMILY_ALL)
		for _, n := range neighs {
			if addr, _ := netip.AddrFromSlice(n.IP); n.State == netlink.NUD_PERMANENT {
				fixed = append(fixed, addr.Unmap())
			}
		}
		return err
	})
	want := l.link.Machine()
	if len(addrs) != 2 || !slices.Contains(addrs, want.V4) || !slices.Contains(addrs, want.V6) {
		t.Errorf("the machine has %v, want %v", addrs, want)
	}
	if len(fixed) != 8 || slices.ContainsFunc(fixed, func(a netip.Addr) bool { return !l.link.Contains(a) }) {
		t.Errorf("fixed neighbours of the machine are %v, want four places of %v", fixed, l.link)
	}
}

func TestMoveRefused(t *testing.T) {
	l := newLab(t)
	for words, want := range map[string]string{
		"move x y":                         "ParsePrefix",
		"move 10.0.0.0/30 fd77::/64":       "want an IPv4 network",
		"move 10.0.0.0/24 192.168.0.0/24":  "want an IPv6 network",
		"move 10.0.0.0/24":                 "not known",
		"move 10.0.0.1/24 fd77::/64":       "want an IPv4 network",
		"move 10.0.0.0/24 fd77::/64 again": "not known",
	} {
		h := &helper{path: l.socket}
		_, err := h.request(words)
		h.close()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", words, err, want)
		}
	}
	l.checkLink(t)
}
