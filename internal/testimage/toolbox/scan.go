//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/testimage"
)

// scan dials every TCP port of an address. Answers are the ports that did not
// refuse, as "53 connected", in the order of the ports; Bytes counts the ports.
func scan(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("scan")
	first := flags.Uint("first", 1, "port to begin with")
	last := flags.Uint("last", 65535, "port to end with")
	parallel := flags.Int("parallel", 64, "dials at a time")
	timeout := flags.Duration("timeout", 10*time.Second, "for each port")
	arg := parse(flags, args, 1, 1)[0]
	addr, err := netip.ParseAddr(arg)
	if err != nil {
		return fmt.Errorf("parse address %s: want an IP address", arg)
	}
	if *first < 1 || *last > 65535 || *first > *last {
		return fmt.Errorf("ports %d to %d: want 1 to 65535", *first, *last)
	}
	ports := make(chan uint16)
	var found sync.Map // port to outcome, unless refused
	var dials sync.WaitGroup
	for range *parallel {
		dials.Go(func() {
			for port := range ports {
				if outcome := knock(ctx, netip.AddrPortFrom(addr, port), *timeout); outcome != testimage.Refused {
					found.Store(port, outcome)
				}
			}
		})
	}
	for port := *first; port <= *last && ctx.Err() == nil; port++ {
		ports <- uint16(port)
		r.Bytes++
	}
	close(ports)
	dials.Wait()
	var open []uint16
	found.Range(func(port, _ any) bool {
		open = append(open, port.(uint16))
		return true
	})
	slices.Sort(open)
	for _, port := range open {
		outcome, _ := found.Load(port)
		r.Answers = append(r.Answers, fmt.Sprintf("%d %s", port, outcome))
	}
	r.Remote = addr.String()
	return ctx.Err()
}

// knock dials and hangs up at once, by a reset: tens of thousands of
// connections must not wait for their end.
func knock(ctx context.Context, addr netip.AddrPort, timeout time.Duration) testimage.Outcome {
	r := &testimage.Result{}
	conn, err := openTCP(ctx, addr.String(), timeout, r)
	if err != nil {
		conclude(r, err)
		return r.Outcome
	}
	_ = conn.SetLinger(0)
	_ = conn.Close()
	return testimage.Connected
}
