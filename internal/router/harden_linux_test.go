package router

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// state is what nobody in the machine may change.
type state struct {
	neighbours map[netip.Addr]string
	routes     []string
	addrs      []string
}

func (l *lab) routerState(t *testing.T) (s state) {
	t.Helper()
	s.neighbours = map[netip.Addr]string{}
	l.helper.do(t, func() error {
		neighs, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, n := range neighs {
			if addr, ok := netip.AddrFromSlice(n.IP); ok && n.State&(netlink.NUD_NOARP) == 0 {
				s.neighbours[addr.Unmap()] = n.HardwareAddr.String()
			}
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range routes {
			s.routes = append(s.routes, r.String())
		}
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		for _, a := range addrs {
			s.addrs = append(s.addrs, a.IPNet.String())
		}
		slices.Sort(s.routes)
		return err
	})
	return s
}

// settledState is routerState once the kernel has given e0 a link-local address,
// which it first looks for on the link for a second (RFC 4862, 5.4).
func (l *lab) settledState(t *testing.T) state {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		s := l.routerState(t)
		if slices.ContainsFunc(s.routes, func(r string) bool { return strings.Contains(r, "Dst: fe80::/128 ") }) {
			return s
		}
	}
	t.Fatal("e0 gets no link-local address")
	return state{}
}

// TestForgeries sends what a container on the link could: ARP, neighbour and
// router advertisements, a redirect.
func TestForgeries(t *testing.T) {
	l := newLab(t)
	l.attach(t, &fakeHandler{open: openEcho})
	link := portolan.DefaultLink()
	evil := net.HardwareAddr{2, 0, 0, 0, 6, 6}
	broadcast := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	before := l.settledState(t)
	victims := []portolan.Pair{link.Machine(), link.Gateway(), link.Host()}
	for _, v := range victims {
		for _, op := range []byte{1, 2} { // gratuitous request, reply
			l.frame(t, broadcast, evil, unix.ETH_P_ARP, arp(op, evil, v.V4, v.V4))
			l.frame(t, routerMAC(), evil, unix.ETH_P_ARP, arp(op, evil, v.V4, link.Gateway().V4))
		}
		l.frame(t, routerMAC(), evil, unix.ETH_P_IPV6, advertisement(v.V6, link.Gateway().V6, evil))
	}
	stranger := netip.MustParseAddr("192.168.65.77")
	l.frame(t, routerMAC(), evil, unix.ETH_P_ARP, arp(2, evil, stranger, link.Gateway().V4))
	l.frame(t, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, evil, unix.ETH_P_IPV6, routerAdvertisement())
	both(t, func(t *testing.T, server, _ netip.Addr) { // they arrived before this does
		conn, err := l.dial("tcp", netip.AddrPortFrom(server, 80), 5e9)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		checkEcho(t, conn)
	})
	after := l.routerState(t)
	for _, addr := range []netip.Addr{link.Machine().V4, link.Machine().V6} {
		if mac := after.neighbours[addr]; mac != machineMAC().String() {
			t.Errorf("neighbour %s is %q now", addr, mac)
		}
	}
	for addr, mac := range after.neighbours {
		if mac == evil.String() {
			t.Errorf("neighbour %s was learned from a forgery", addr)
		}
	}
	if !slices.Equal(before.routes, after.routes) {
		t.Errorf("routes changed\nfrom %q\nto   %q", before.routes, after.routes)
	}
	if !slices.Equal(before.addrs, after.addrs) {
		t.Errorf("addresses changed from %q to %q", before.addrs, after.addrs)
	}
}

// TestForeignMAC sends datagrams as a container on macvlan could, with a
// hardware address of its own: it may speak for itself, for nobody else.
func TestForeignMAC(t *testing.T) {
	l := newLab(t)
	got := make(chan portolan.Flow, 64)
	l.attach(t, &fakeHandler{udp: func(flow portolan.Flow, _ []byte) { got <- flow }})
	evil := net.HardwareAddr{2, 0, 0, 0, 6, 6}
	link := portolan.DefaultLink()
	own := portolan.Pair{V4: netip.MustParseAddr("192.168.65.200"), V6: netip.MustParseAddr("fdc4:f303:9324::8200")}
	both(t, func(t *testing.T, server, container netip.Addr) {
		typ := uint16(unix.ETH_P_IP)
		if server.Is6() {
			typ = unix.ETH_P_IPV6
		}
		send := func(mac net.HardwareAddr, src netip.Addr) {
			t.Helper()
			l.frame(t, routerMAC(), mac, typ, buildUDP(netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(server, 4243), []byte("whose?")))
		}
		next := func() netip.Addr {
			t.Helper()
			select {
			case flow := <-got:
				return flow.Src.Addr()
			case <-time.After(5 * time.Second):
				t.Fatal("no datagram comes through")
			}
			return netip.Addr{}
		}
		send(machineMAC(), container)
		if src := next(); src != container {
			t.Errorf("the machine's own datagram comes from %s, want %s", src, container)
		}
		for _, src := range []netip.Addr{
			container, link.Machine().For(server), link.Gateway().For(server), link.DNS().For(server), link.Host().For(server), server.Next(),
		} {
			send(evil, src)
		}
		send(evil, own.For(server)) // the router takes datagrams in order
		if src := next(); src != own.For(server) {
			t.Errorf("%s was forged and believed", src)
		}
	})
}

func arp(op byte, mac net.HardwareAddr, claims, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, op}
	b = append(append(b, mac...), claims.AsSlice()...)
	return append(append(b, make([]byte, 6)...), target.AsSlice()...)
}

// advertisement is a neighbour advertisement with the override flag.
func advertisement(claims, to netip.Addr, mac net.HardwareAddr) []byte {
	b := append([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, claims.AsSlice()...)
	b = append(append(b, 2, 1), mac...)
	return neighbourMessage(claims, to, b)
}

// routerAdvertisement offers itself as default router, with a prefix.
func routerAdvertisement() []byte {
	b := []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}
	b = append(b, 3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0)
	b = append(b, netip.MustParseAddr("2001:db8:bad::").AsSlice()...)
	return neighbourMessage(netip.MustParseAddr("fe80::66"), netip.MustParseAddr("ff02::1"), b)
}

func neighbourMessage(src, dst netip.Addr, b []byte) []byte {
	putChecksum(b, 2, src, dst, protoICMPv6)
	packet := buildIPv6(src, dst, protoICMPv6, b)
	packet[7] = 255 // else it is ignored
	return packet
}

// TestOthersAreNotServed checks the refusals of the hand-over.
func TestOthersAreNotServed(t *testing.T) {
	l := newLab(t)
	h := &helper{path: l.socket}
	defer h.close()
	for _, words := range [][]string{{"sockets", "tcp4", "0"}, {"sockets", "tcp4", "1000"}, {"sockets", "raw", "1"}, {"what"}, {""}} {
		if fds, err := h.request(words...); err == nil {
			t.Errorf("request %q gets %d descriptors", words, len(fds))
		}
	}
	fds, err := h.request(wordSockets, string(udp6), "3") // it goes on after errors
	closeAll(fds)
	if err != nil || len(fds) != 3 {
		t.Errorf("3 sockets: %d, %v", len(fds), err)
	}
	if err := os.Chmod(l.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(strings.TrimSuffix(l.socket, "/s"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := l.stopAs(65534); err == nil || !strings.Contains(err.Error(), "permission") {
		t.Errorf("stop by another user: %v, want permission denied", err)
	}
	if err := Stop(l.socket); err != nil {
		t.Errorf("stop by the right user: %v", err)
	}
}

// stopAs asks for stop on a thread with another user's credentials.
func (l *lab) stopAs(uid int) error {
	return l.container.try(func() error {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			return errors.Join(errno)
		}
		return Stop(l.socket)
	})
}

func TestSetupRefusesLink(t *testing.T) {
	if _, err := Setup(Config{Link: portolan.Link{}}, os.Getpid()); err == nil {
		t.Error("Setup accepts no link")
	}
}

// TestRouterMTU: packets written into slow0 and read from it fit.
func TestRouterMTU(t *testing.T) {
	l := newLab(t)
	l.helper.do(t, func() error {
		for _, name := range []string{linkName, slowName} {
			dev, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if dev.Attrs().MTU != linkMTU {
				t.Errorf("MTU of %s = %d", name, dev.Attrs().MTU)
			}
		}
		return nil
	})
}
