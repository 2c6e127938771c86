package connect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A host that forwards may put its own address on what others send: for virtual
// machines, another engine's containers or a LAN, by a rule that masquerades. The
// router takes that for the host. So the interface is kept out of forwarding: what
// containers answer to others is dropped by the host (ip_forward and
// conf/INTERFACE/forwarding of the kernel's ip-sysctl). For IPv6 the kernel has
// no such thing: docs/limits.md.

// forwardingFile is the sysctl of the host's end.
func (e *hostEnd) forwardingFile() string {
	return "/proc/sys/net/ipv4/conf/" + e.name + "/forwarding"
}

// endForwarding does so now.
func (e *hostEnd) endForwarding() error {
	text, err := os.ReadFile(e.forwardingFile())
	if err == nil && strings.TrimSpace(string(text)) != "0" {
		err = os.WriteFile(e.forwardingFile(), []byte("0"), 0)
	}
	if err != nil {
		return fmt.Errorf("keep %s out of forwarding: %w", e.name, err)
	}
	return nil
}

// watchForwarding keeps it so until ctx ends: whoever sets ip_forward sets all
// interfaces.
func (e *hostEnd) watchForwarding(ctx context.Context) error {
	changes, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_NETCONF)
	if err != nil {
		return fmt.Errorf("watch ip_forward: %w", err)
	}
	defer context.AfterFunc(ctx, changes.Close)()
	for {
		if err := e.endForwarding(); err != nil || ctx.Err() != nil {
			return err
		}
		if _, _, err := changes.Receive(); err != nil && ctx.Err() == nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch ip_forward: %w", err)
		}
	}
}
