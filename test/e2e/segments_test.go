package e2e

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// checkLargeSegments looks at the packets of streams out of a container, and from
// one to another on a network that both have come to later: on the whole they are
// larger than IPv4's own 64 KiB. name is the container's.
func checkLargeSegments(t *testing.T, s *stage.Stage, name string, from place) {
	t.Helper()
	ns, err := netns.GetFromPid(s.MachineProcess(t, "portolan-agent serve"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	machine, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	if eth0, err := machine.LinkByName("eth0"); err != nil || eth0.Attrs().GSOIPv4MaxSize == 0 {
		t.Skipf("this kernel has no large segments over IPv4 (%v)", err)
	}
	const size = 100_000_000
	begin := make(chan struct{})
	close(begin)
	serveStreams(t, s, families()[0], size, begin, func() {})
	s.Docker(t, "network", "create", "later")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "later") })
	s.Serve(t, "neighbour", []string{"--network", "later"}, "stream-send", ":7009", "-listen", "-bytes", strconv.Itoa(size))
	s.Docker(t, "network", "connect", "later", name)
	t.Cleanup(func() { s.Docker(t, "network", "disconnect", "later", name) })
	for _, command := range []string{
		fmt.Sprintf("stream-send %s -bytes %d", hostPort(lab.WebV4, portReceives), size),
		"stream-recv neighbour:7009",
	} {
		before := sent(t, machine)
		if got := from.run(t, command); got.Outcome != testimage.OK {
			t.Errorf("%s: %+v", command, got)
		}
		var best float64
		for link, now := range sent(t, machine) {
			if bytes := now.TxBytes - before[link].TxBytes; bytes >= size {
				best = max(best, float64(bytes)/float64(now.TxPackets-before[link].TxPackets))
			}
		}
		if t.Logf("%s: packets of %.0f bytes", command, best); best < 1<<16 {
			t.Errorf("%s: packets of %.0f bytes in the mean, want larger ones than 64 KiB", command, best)
		}
	}
}

// sent is what each link of a namespace has sent.
func sent(t *testing.T, h *netlink.Handle) map[string]netlink.LinkStatistics {
	t.Helper()
	links, err := h.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]netlink.LinkStatistics{}
	for _, link := range links {
		counts[link.Attrs().Name] = *link.Attrs().Statistics
	}
	return counts
}
