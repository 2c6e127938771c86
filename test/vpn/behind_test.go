package vpn

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// A computer behind the company's router.
const (
	behindV4, behindRouterV4 = "10.98.0.2", "10.98.0.1"
	behindV6, behindRouterV6 = "fd98::2", "fd98::1"
)

// checkBehind: the tunnel takes 1,500 bytes, and a router behind it 1,280, which it
// says by ICMP in both directions: what is large gets through all the same.
func checkBehind(t *testing.T, s *stage.Stage, c *company) {
	c.openServer(t, s, "--dev", "tun8", "--push", "route 10.98.0.0 255.255.255.0", "--push", "route-ipv6 fd98::/64")
	router := s.Lab.Internet
	run := startBehind(t, s)
	for _, words := range [][]string{
		{"sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"},
		{"ip", "route", "replace", "10.98.0.0/24", "dev", "behind0", "mtu", "lock", "1280"},
		{"ip", "route", "replace", "10.8.0.0/24", "dev", "tun8", "mtu", "lock", "1280"},
		{"ip", "-6", "route", "replace", "fd98::/64", "dev", "behind0", "metric", "256", "mtu", "lock", "1280"},
		{"ip", "-6", "route", "replace", "fd08::/64", "dev", "tun8", "metric", "256", "mtu", "lock", "1280"},
	} {
		router.Run(t, words[0], words[1:]...)
	}
	t.Cleanup(func() {
		_ = router.Command(context.WithoutCancel(t.Context()), "sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0").Run()
	})
	c.connect(t, s)
	wantIntranet(t, s, c)
	const size = 20 << 20
	sum := sha256.New()
	if _, err := io.CopyN(sum, testimage.Stream(), size); err != nil {
		t.Fatal(err)
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	for _, addr := range []string{behindV4, behindV6} {
		stage.Eventually(t, vpnPatience, addr+" serves", func() bool {
			return s.Exec(t, "bridged", "get", "http://"+hostPort(addr, 80)+"/ip").Outcome == testimage.OK
		})
		for _, name := range containers() {
			got := s.Exec(t, name, "get", fmt.Sprintf("http://%s/bytes/%d", hostPort(addr, 80), size), "-timeout", "60s")
			if got.Outcome != testimage.OK || got.SHA256 != digest {
				t.Errorf("%s: %d bytes from %s: %+v", name, size, addr, got)
			}
			for _, size := range []int{1200, 1400, 9000, 65507 - 20} {
				// The first one of a size may be what finds out the path's; UDP loses it (RFC 8899).
				stage.Eventually(t, promptly, fmt.Sprintf("%s: a datagram of %d bytes to %s", name, size, addr), func() bool {
					return s.Exec(t, name, "udp-send", hostPort(addr, 7), "-size", fmt.Sprint(size), "-timeout", "500ms").Outcome == testimage.OK
				})
			}
			stage.Eventually(t, vpnPatience, fmt.Sprintf("%s: %d bytes to %s", name, size, addr), func() bool {
				return s.Exec(t, name, "stream-send", hostPort(addr, 9000), "-bytes", fmt.Sprint(size), "-timeout", "15s").Outcome == testimage.OK
			})
		}
	}
	checkPublished(t, s, run)
	// The host was told, or nothing was shown.
	for _, way := range [][]string{{"-4", behindV4}, {"-6", behindV6}} {
		if route := s.Lab.Host.Run(t, "ip", way[0], "route", "get", way[1]); !strings.Contains(route, "mtu 1280") {
			t.Errorf("the host knows no smaller path to %s: %s", way[1], route)
		}
	}
}

// behindScript serves in a network of its own, which gets its interface from outside.
const behindScript = `until ip link show far0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up && ip link set far0 up
ip address add %[2]s/24 dev far0 && ip -6 address add %[4]s/64 dev far0 nodad
ip route add default via %[3]s && ip -6 route add default via %[5]s
%[1]s web & %[1]s echo-udp &
while :; do %[1]s stream-recv [::]:9000 -listen; done
`

// startBehind starts the computer and plugs it into the router. What is returned
// runs commands of the toolbox there.
func startBehind(t *testing.T, s *stage.Stage) (run func(args ...string) testimage.Result) {
	t.Helper()
	toolbox := toolboxOf(t, s)
	router := s.Lab.Internet
	script := fmt.Sprintf(behindScript, toolbox, behindV4, behindRouterV4, behindV6, behindRouterV6)
	cmd := router.Command(context.WithoutCancel(t.Context()), "unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", script)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL) // its children go with it
		_ = cmd.Wait()
	})
	own := router.Run(t, "readlink", "/proc/self/ns/net")
	stage.Eventually(t, vpnPatience, "the computer has a network of its own", func() bool {
		link, err := router.Command(t.Context(), "readlink", fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)).Output()
		return err == nil && string(link) != own
	})
	for _, words := range [][]string{
		{"link", "add", "behind0", "type", "veth", "peer", "name", "far0", "netns", fmt.Sprint(cmd.Process.Pid)},
		{"link", "set", "behind0", "up"},
		{"address", "add", behindRouterV4 + "/24", "dev", "behind0"},
		{"-6", "address", "add", behindRouterV6 + "/64", "dev", "behind0", "nodad"},
	} {
		router.Run(t, "ip", words...)
	}
	return func(args ...string) testimage.Result {
		t.Helper()
		return runToolbox(t, router, append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", cmd.Process.Pid), toolbox}, args...))
	}
}
