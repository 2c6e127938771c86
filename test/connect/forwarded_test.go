package connect_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// checkMasqueraded is a host that forwards for others under its own address, as
// one with virtual machines or another engine does: they are not this host.
func checkMasqueraded(t *testing.T, p *site) {
	const table = "lab-masquerade"
	set := func(value string) {
		t.Helper()
		if err := p.Lab.Host.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(value), 0) }); err != nil {
			t.Fatal(err)
		}
	}
	set("1")
	defer set("0")
	// It takes the kernel's lock of all networks, for which other tests may hold it up. While it is not to be had
	// the new value shows for moments, and goes again.
	forwards := "/proc/sys/net/ipv4/conf/" + p.Status(t).Connection.Interface + "/forwarding"
	stage.Eventually(t, soon, "the interface is out of forwarding again", func() bool {
		out := true
		if err := p.Lab.Host.Do(func() error {
			for range 50 {
				text, err := os.ReadFile(forwards)
				if err != nil {
					return err
				}
				out = out && strings.TrimSpace(string(text)) == "0"
				time.Sleep(time.Millisecond)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out
	})
	p.Lab.Host.Run(t, "nft", "add table ip "+table+"; add chain ip "+table+
		" out { type nat hook postrouting priority 100; }; add rule ip "+table+" out masquerade")
	defer p.Lab.Host.Run(t, "nft", "delete table ip "+table)
	p.Lab.Neighbour.Run(t, "ip", "route", "add", "172.16.0.0/12", "via", lab.HostV4)
	defer p.Lab.Neighbour.Run(t, "ip", "route", "del", "172.16.0.0/12", "via", lab.HostV4)
	web := p.addrs["mine"][0]
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if conn, err := p.Lab.Neighbour.Dial(ctx, "tcp", at(web, 80)); err == nil {
			_ = conn.Close()
			t.Errorf("%s answers the LAN, which comes under the host's address", web)
		}
		cancel()
	}
	if _, err := p.answers(t, web); err != nil {
		t.Errorf("%s does not answer the host itself: %v", web, err)
	}
}

// checkManyRoutes is a VPN that adds and removes thousands of routes at once,
// faster than anybody can follow.
func checkManyRoutes(t *testing.T, p *site) {
	var add, del strings.Builder
	for i := range 8000 {
		route := fmt.Sprintf("10.%d.%d.0/24 dev lan0\n", 100+i/256, i%256)
		add.WriteString("route add " + route)
		del.WriteString("route del " + route)
	}
	daemon := p.Status(t).Daemon.PID
	for _, text := range []string{add.String(), del.String(), add.String(), del.String()} {
		cmd := p.Lab.Host.Command(t.Context(), "ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	time.Sleep(time.Second) // what would end has ended then
	status := p.Status(t)
	if status.Daemon.PID != daemon || status.Connection == nil {
		t.Errorf("the daemon was %d and is %d; connection: %+v", daemon, status.Daemon.PID, status.Connection)
	}
	for _, addr := range p.addrs["mine"] {
		p.eventuallyAnswers(t, addr)
	}
}
