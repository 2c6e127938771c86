//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/testimage"
)

// connectTimes connects and resets, one connection after the other, and tells
// how long connects took. One that fails ends it.
func connectTimes(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("connect-times")
	count := flags.Int("count", 100, "connections")
	every := flags.Duration("every", 10*time.Millisecond, "pause between two")
	timeout := flags.Duration("timeout", 10*time.Second, "of one")
	addr := parse(flags, args, 1, 1)[0]
	var took []float64
	for range *count {
		began := time.Now()
		conn, err := (&net.Dialer{Timeout: *timeout}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("after %d connections: %w", len(took), err)
		}
		took = append(took, float64(time.Since(began).Microseconds())/1000)
		abort(conn)
		time.Sleep(*every)
	}
	slices.Sort(took)
	at := func(share float64) float64 { return took[int(share*float64(len(took)-1))] }
	r.Count, r.P50, r.P99 = int64(len(took)), at(0.5), at(0.99)
	return nil
}

// abort closes with a reset, which leaves no TIME_WAIT behind.
func abort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// churn connects and resets, several at a time and as fast as it can, until it
// is told to end. With -once each worker dials once, and waits if that stands.
func churn(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("churn")
	workers := flags.Int("workers", 16, "connections at a time")
	once := flags.Bool("once", false, "dial once each")
	addr := parse(flags, args, 1, 1)[0]
	emit(testimage.Result{Command: "churn", Outcome: testimage.Listening, Remote: addr})
	var opened atomic.Int64
	var running sync.WaitGroup
	for range *workers {
		running.Go(func() {
			for ctx.Err() == nil {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
				if *once {
					<-ctx.Done()
				}
				if err == nil {
					opened.Add(1)
					abort(conn)
				}
			}
		})
	}
	running.Wait()
	r.Count = opened.Load()
	return nil
}

// floodSYN sends SYNs with sources out of a network, through a raw socket, until
// it is told to end.
func floodSYN(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("flood-syn")
	from := flags.String("from", "", "network of the sources; default: the own address")
	rate := flags.Int("rate", 50000, "SYNs per second")
	to, err := netip.ParseAddrPort(parse(flags, args, 1, 1)[0])
	if err != nil || !to.Addr().Is4() {
		return errors.New("want IPV4:PORT")
	}
	if *from == "" {
		probe, err := new(net.Dialer).DialContext(ctx, "udp4", to.String())
		if err != nil {
			return err
		}
		*from = probe.LocalAddr().(*net.UDPAddr).AddrPort().Addr().String() + "/32"
		_ = probe.Close()
	}
	network, err := netip.ParsePrefix(*from)
	if err != nil || !network.Addr().Is4() {
		return fmt.Errorf("parse -from %q: want an IPv4 network", *from)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("open raw socket: %w", err)
	}
	defer unix.Close(fd)
	emit(testimage.Result{Command: "flood-syn", Outcome: testimage.Listening, Remote: to.String()})
	const perTick = 100 // sleeps for each packet would be too short to keep
	tick := time.NewTicker(time.Second * perTick / time.Duration(*rate))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for range perTick {
			packet := synPacket(netip.AddrPortFrom(within(network), uint16(1024+rand.IntN(64000))), to)
			if unix.Sendto(fd, packet, 0, sockaddr(netip.AddrPortFrom(to.Addr(), 0))) == nil {
				r.Count++
			}
		}
	}
}

// within is any address of an IPv4 network.
func within(network netip.Prefix) netip.Addr {
	addr := network.Masked().Addr().As4()
	host := rand.Uint32() & (1<<(32-network.Bits()) - 1)
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(addr[:])|host)))
}

// synPacket is an IPv4 packet with the first segment of a connection (RFC 9293).
func synPacket(from, to netip.AddrPort) []byte {
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	binary.BigEndian.PutUint32(tcp[4:], rand.Uint32())
	tcp[12], tcp[13] = 5<<4, 2 // data offset; SYN
	binary.BigEndian.PutUint16(tcp[14:], 64240)
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	pseudo := append(append(append([]byte{}, src...), dst...), 0, unix.IPPROTO_TCP, 0, byte(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))

	header := make([]byte, 20, 20+len(tcp))
	header[0], header[8], header[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(header[2:], uint16(20+len(tcp)))
	copy(header[12:], src)
	copy(header[16:], dst)
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	return append(header, tcp...)
}
