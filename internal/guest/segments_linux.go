package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// sandboxes is where dockerd keeps the network namespaces of containers.
const sandboxes = "/run/docker/netns"

// linkPause lets changes of links gather.
const linkPause = 10 * time.Millisecond

// EnlargeSegments gives portolan.LargeSegment to the links between containers and
// the router, those that there are and those that come, until ctx ends. What the
// router sends keeps the usual size: in a container there may be links of its own,
// docker in docker's, which would have to cut it up.
func EnlargeSegments(ctx context.Context, log *slog.Logger) error {
	eth0, err := netlink.LinkByName(linkName)
	if err != nil {
		return fmt.Errorf("find %s: %w", linkName, err)
	}
	if eth0.Attrs().GSOIPv4MaxSize == 0 {
		log.Debug("this kernel has no large segments over IPv4")
		return nil
	}
	news, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	heard := make(chan struct{}, 1)
	var hearing sync.WaitGroup
	hearing.Go(func() { hearLinks(news, heard) })
	defer hearing.Wait()
	defer news.Close()
	for open := true; open; {
		if err := enlargeAll(); err != nil {
			log.Debug("enlarge segments", "err", err) // a link has gone meanwhile
		}
		time.Sleep(linkPause)
		select {
		case <-ctx.Done():
			return nil
		case _, open = <-heard:
		}
	}
	return errors.New("watch links: the kernel closed the subscription")
}

// hearLinks says that links have changed, and closes heard when it can't be told
// any more. If the kernel has had more to tell than it keeps for a reader, they
// have changed, too.
func hearLinks(news *nl.NetlinkSocket, heard chan<- struct{}) {
	defer close(heard)
	for {
		if _, _, err := news.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		select {
		case heard <- struct{}{}:
		default: // the reader will look after this
		}
	}
}

// enlargeAll enlarges what has the usual size: eth0, bridges, and what connects
// containers to these.
func enlargeAll() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	ports := map[int][]netlink.Link{} // by the other end's namespace, as this one numbers them
	for _, link := range links {
		attrs := link.Attrs()
		switch {
		case attrs.GSOIPv4MaxSize >= portolan.LargeSegment:
		case attrs.Name == linkName || link.Type() == "bridge":
			errs = append(errs, netlink.LinkSetGSOIPv4MaxSize(link, portolan.LargeSegment))
		case link.Type() == "veth" && attrs.MasterIndex != 0 && attrs.NetNsID >= 0:
			ports[attrs.NetNsID] = append(ports[attrs.NetNsID], link)
		}
	}
	if len(ports) == 0 {
		return errors.Join(errs...)
	}
	found, err := os.ReadDir(sandboxes)
	errs = append(errs, err)
	for _, sandbox := range found {
		errs = append(errs, enlargeBothEnds(filepath.Join(sandboxes, sandbox.Name()), ports))
	}
	return errors.Join(errs...)
}

// enlargeBothEnds enlarges the ports that lead into a namespace, and first their
// other ends there.
func enlargeBothEnds(sandbox string, ports map[int][]netlink.Link) error {
	ns, err := netns.GetFromPath(sandbox)
	if err != nil {
		return fmt.Errorf("open %s: %w", sandbox, err)
	}
	defer ns.Close()
	id, err := netlink.GetNetNsIdByFd(int(ns))
	if err != nil || len(ports[id]) == 0 {
		return err
	}
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in %s: %w", sandbox, err)
	}
	defer inside.Close()
	for _, port := range ports[id] {
		end := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: port.Attrs().ParentIndex}}
		if err := inside.LinkSetGSOIPv4MaxSize(end, portolan.LargeSegment); err != nil {
			return fmt.Errorf("enlarge segments in %s: %w", sandbox, err)
		}
		if err := netlink.LinkSetGSOIPv4MaxSize(port, portolan.LargeSegment); err != nil {
			return fmt.Errorf("enlarge segments of %s: %w", port.Attrs().Name, err)
		}
	}
	return nil
}
