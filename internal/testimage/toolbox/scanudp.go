//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/testimage"
)

// scanStride is how many ports are asked between two rounds to the fence: few
// enough for any receive buffer.
const scanStride = 128

// dnsQuestion is a query for the root's name servers: what a resolver answers,
// and as good as anything else for an echo.
var dnsQuestion = []byte{0x50, 0x54, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}

// scanUDP sends a datagram to every UDP port of an address. Answers are the ports
// from which something came back, in order; Bytes counts the ports. Silence says
// nothing by itself, so every now and then a fence, an echo server that is
// reached the same way, is asked until it answers: whatever was sent before has
// been handled then.
func scanUDP(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("scan-udp")
	fenceText := flags.String("fence", "", "an echo server, IP:PORT")
	timeout := flags.Duration("timeout", 20*time.Second, "for each answer of the fence")
	arg := parse(flags, args, 1, 1)[0]
	addr, err := netip.ParseAddr(arg)
	if err != nil {
		return fmt.Errorf("parse address %s: want an IP address", arg)
	}
	fence, err := netip.ParseAddrPort(*fenceText)
	if err != nil {
		return fmt.Errorf("parse -fence %q: want IP:PORT", *fenceText)
	}
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	s := &udpScan{conn: conn, target: addr, fence: fence, open: map[uint16]bool{}, echoes: make(chan uint64, 1)}
	var reading sync.WaitGroup
	defer reading.Wait()
	defer conn.Close()
	reading.Go(s.read)
	for port := 1; port <= 65535; port++ {
		if _, err := conn.WriteToUDPAddrPort(dnsQuestion, netip.AddrPortFrom(addr, uint16(port))); err != nil {
			return fmt.Errorf("send to port %d: %w", port, err)
		}
		r.Bytes++
		if port%scanStride == 0 || port == 65535 {
			if err := s.await(ctx, uint64(port), *timeout); err != nil {
				return err
			}
		}
	}
	r.Remote = addr.String()
	s.mu.Lock()
	defer s.mu.Unlock()
	for port := range s.open {
		r.Answers = append(r.Answers, strconv.Itoa(int(port)))
	}
	slices.Sort(r.Answers)
	return nil
}

type udpScan struct {
	conn   *net.UDPConn
	target netip.Addr
	fence  netip.AddrPort
	echoes chan uint64 // the last number that the fence sent back

	mu   sync.Mutex // guards open
	open map[uint16]bool
}

// read notes who answers until the socket is closed.
func (s *udpScan) read() {
	buf := make([]byte, 2048)
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		switch {
		case from == s.fence && n == 8:
			select {
			case <-s.echoes: // an older one that nobody took
			default:
			}
			s.echoes <- binary.BigEndian.Uint64(buf)
		case from.Addr() == s.target:
			s.mu.Lock()
			s.open[from.Port()] = true
			s.mu.Unlock()
		}
	}
}

// await asks the fence until it has sent number back.
func (s *udpScan) await(ctx context.Context, number uint64, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		if _, err := s.conn.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(nil, number), s.fence); err != nil {
			return fmt.Errorf("send to fence: %w", err)
		}
		select {
		case got := <-s.echoes:
			if got == number {
				return nil
			}
		case <-time.After(200 * time.Millisecond): // lost; again
		case <-ctx.Done():
			return fmt.Errorf("the fence %s does not answer: %w", s.fence, ctx.Err())
		}
	}
}
