package router

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

// pinger is a raw ICMP socket in the container.
type pinger struct {
	conn *net.IPConn
	v6   bool
}

func (l *lab) pinger(t *testing.T, v6 bool) *pinger {
	t.Helper()
	network, wildcard := "ip4:icmp", "0.0.0.0"
	if v6 {
		network, wildcard = "ip6:ipv6-icmp", "::"
	}
	p := &pinger{v6: v6}
	l.container.do(t, func() error {
		var config net.ListenConfig
		conn, err := config.ListenPacket(t.Context(), network, wildcard)
		if err == nil {
			p.conn = conn.(*net.IPConn)
		}
		return err
	})
	t.Cleanup(func() { _ = p.conn.Close() })
	return p
}

func (p *pinger) send(dst netip.Addr, id, seq uint16, payload []byte) error {
	src := container4
	if p.v6 {
		src = container6
	}
	_, err := p.conn.WriteTo(buildEcho(src, dst, false, id, seq, payload), &net.IPAddr{IP: dst.AsSlice()})
	return err
}

// wait returns the first message of a type.
func (p *pinger) wait(typ byte) ([]byte, netip.Addr, error) {
	buf := make([]byte, maxPacket)
	if err := p.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, netip.Addr{}, err
	}
	for {
		n, from, err := p.conn.ReadFrom(buf)
		if err != nil {
			return nil, netip.Addr{}, err
		}
		if n >= 8 && buf[0] == typ {
			addr, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
			return buf[:n], addr.Unmap(), nil
		}
	}
}

func TestEcho(t *testing.T) {
	l := newLab(t)
	h := &fakeHandler{}
	d, err := Attach(t.Context(), l.socket, portolan.DefaultLink(), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	flows := make(chan portolan.Flow, 1)
	h.echo = func(flow portolan.Flow, seq uint16, payload []byte) {
		flows <- flow
		err := d.ReplyEcho(flow, seq, payload)
		if seq == 99 {
			err = d.RefuseEcho(flow, seq, payload, unix.EHOSTUNREACH)
		}
		if err != nil {
			t.Errorf("answer echo: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, h) }()
	defer func() {
		cancel()
		if err := errors.Join(<-done, d.Close()); err != nil {
			t.Error(err)
		}
	}()
	both(t, func(t *testing.T, server, container netip.Addr) {
		reply, unreach := byte(echoReply4), byte(3)
		if server.Is6() {
			reply, unreach = echoReply6, 1
		}
		p := l.pinger(t, server.Is6())
		for i, size := range []int{0, 56, 9000, 60000} {
			want := bytes.Repeat([]byte{byte(i + 1)}, size)
			if err := p.send(server, 77, uint16(i), want); err != nil {
				t.Fatal(err)
			}
			got, from, err := p.wait(reply)
			if err != nil || from != server || !bytes.Equal(got[8:], want) || binary.BigEndian.Uint16(got[6:]) != uint16(i) {
				t.Fatalf("echo of %d bytes: %d bytes from %s, %v", size, len(got), from, err)
			}
			if flow := <-flows; flow != (portolan.Flow{Proto: portolan.ICMP, Src: netip.AddrPortFrom(container, 77), Dst: netip.AddrPortFrom(server, 77)}) {
				t.Errorf("flow = %v", flow)
			}
		}
		if err := p.send(server, 78, 99, []byte("x")); err != nil {
			t.Fatal(err)
		}
		got, from, err := p.wait(unreach)
		<-flows
		if err != nil {
			t.Fatalf("refused echo: %v", err)
		}
		quoted, ok := parsePacket(got[8:])
		if !ok || quoted.src != container || quoted.dst != server || from != portolan.DefaultLink().Gateway().For(server) {
			t.Errorf("error from %s quotes %v", from, quoted)
		}
	})
}

// TestRouterAnswersPing: by itself, with nobody attached.
func TestRouterAnswersPing(t *testing.T) {
	l := newLab(t)
	link := portolan.DefaultLink()
	both(t, func(t *testing.T, server, _ netip.Addr) {
		reply := byte(echoReply4)
		if server.Is6() {
			reply = echoReply6
		}
		p := l.pinger(t, server.Is6())
		for _, pair := range []portolan.Pair{link.Gateway(), link.DNS(), link.Host()} {
			if err := p.send(pair.For(server), 5, 1, nil); err != nil {
				t.Fatal(err)
			}
			if _, from, err := p.wait(reply); err != nil || from != pair.For(server) {
				t.Errorf("ping %s: answer from %s, %v", pair.For(server), from, err)
			}
		}
	})
}

func TestUnknownProtocolIsRefused(t *testing.T) {
	l := newLab(t)
	l.attach(t, &fakeHandler{})
	both(t, func(t *testing.T, server, _ netip.Addr) {
		typ, code := byte(3), byte(2)
		network := "ip4:132" // SCTP
		if server.Is6() {
			typ, code, network = 4, 1, "ip6:132"
		}
		p := l.pinger(t, server.Is6())
		l.container.do(t, func() error {
			conn, err := net.Dial(network, server.String())
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write(make([]byte, 12))
			return err
		})
		got, from, err := p.wait(typ)
		if err != nil || got[1] != code || from != portolan.DefaultLink().Gateway().For(server) {
			t.Errorf("SCTP: %v from %s, %v", got, from, err)
		}
	})
}

// TestForgedSourceOfRouter: a container pretends to be the host.
func TestForgedSourceOfRouter(t *testing.T) {
	l := newLab(t)
	opened := make(chan portolan.Flow, 8)
	d := l.attach(t, &fakeHandler{
		open: func(_ context.Context, flow portolan.Flow) (datapath.Endpoint, error) {
			opened <- flow
			return nil, unix.ECONNREFUSED
		},
		udp: func(flow portolan.Flow, _ []byte) { opened <- flow },
	})
	d.SetSources([]netip.Prefix{netip.MustParsePrefix("172.30.0.0/24"), netip.MustParsePrefix("fd00:30::/64")})
	link := portolan.DefaultLink()
	both(t, func(t *testing.T, server, container netip.Addr) {
		// The last one is honest: it shows that the others had time to arrive.
		for _, src := range []netip.Addr{link.Host().For(server), link.Gateway().For(server), client4, client6, container} {
			if src.Is4() == server.Is4() {
				l.forge(t, netip.AddrPortFrom(src, 1000), netip.AddrPortFrom(server, 53))
			}
		}
		select {
		case flow := <-opened:
			if flow.Src.Addr() != container {
				t.Errorf("handler gets %v", flow)
			}
		case <-time.After(5 * time.Second):
			t.Error("the honest datagram is lost")
		}
	})
}

// forge sends a datagram with any source from the machine's eth0.
func (l *lab) forge(t *testing.T, src, dst netip.AddrPort) {
	t.Helper()
	typ := uint16(unix.ETH_P_IP)
	if src.Addr().Is6() {
		typ = unix.ETH_P_IPV6
	}
	l.frame(t, routerMAC(), machineMAC(), typ, buildUDP(src, dst, []byte("forged")))
}

// frame sends an Ethernet frame from the machine to the router.
func (l *lab) frame(t *testing.T, to, from net.HardwareAddr, typ uint16, payload []byte) {
	t.Helper()
	l.withLink(t, func(fd int, link unix.SockaddrLinklayer) error {
		b := append(append(bytes.Clone(to), from...), byte(typ>>8), byte(typ))
		if err := unix.Sendto(fd, append(b, payload...), 0, &link); err != nil {
			return fmt.Errorf("send frame: %w", err)
		}
		return nil
	})
}

// withLink calls do in the machine, with a packet socket and its link to the router.
func (l *lab) withLink(t *testing.T, do func(fd int, link unix.SockaddrLinklayer) error) {
	t.Helper()
	l.machine.do(t, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		dev, err := net.InterfaceByName(machineName)
		if err != nil {
			return err
		}
		return do(fd, unix.SockaddrLinklayer{Ifindex: dev.Index})
	})
}
