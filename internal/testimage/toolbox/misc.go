//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/portolan-net/portolan/internal/testimage"
)

// ifaces lists the interfaces of this network namespace.
func ifaces(_ context.Context, args []string, r *testimage.Result) error {
	parse(newFlags("ifaces"), args, 0, 0)
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", i.Name, err)
		}
		entry := testimage.Interface{
			Name: i.Name, MTU: i.MTU, MAC: i.HardwareAddr.String(), Up: i.Flags&net.FlagUp != 0, Addresses: []string{},
		}
		for _, addr := range addrs {
			entry.Addresses = append(entry.Addresses, addr.String())
		}
		r.Ifaces = append(r.Ifaces, entry)
	}
	return nil
}

// sleep keeps a container alive, and ends at once on SIGTERM.
func sleep(ctx context.Context, args []string, _ *testimage.Result) error {
	arg := parse(newFlags("sleep"), args, 1, 1)[0]
	duration, err := time.ParseDuration(arg)
	if err != nil {
		return fmt.Errorf("parse duration %q: want 30s, 5m or the like", arg)
	}
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
	return nil
}

func nothing(context.Context, []string, *testimage.Result) error { return nil }
