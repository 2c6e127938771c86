package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

// TestRealFilesTakeEffect runs the server on a real watcher: resolv.conf and hosts
// are replaced, and the next answers follow within a second.
func TestRealFilesTakeEffect(t *testing.T) {
	dir := t.TempDir()
	resolv, hosts := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts")
	replace := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	nameserver := func(r *resolver) string {
		return fmt.Sprintf("nameserver [%s]:%d\n", r.addr.Addr(), r.addr.Port())
	}
	replace(resolv, nameserver(answering(t, "192.0.2.1", 0)))
	replace(hosts, "")
	log := slog.New(slog.DiscardHandler)
	watcher, err := system.NewNameWatcher(resolv, hosts, os.Open, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	server := New(Config{Link: portolan.DefaultLink(), Source: watcher, Log: log})
	done := make(chan error, 2)
	go func() { done <- watcher.Run(ctx) }()
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; <-done })

	s := setup{Server: server, ctx: ctx}
	eventually := func(want string) {
		t.Helper()
		for end := time.Now().Add(slack * time.Second); ; time.Sleep(10 * time.Millisecond) {
			got, _ := s.addressOrRcode(t)
			if got == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("answer is %s, want %s", got, want)
			}
		}
	}
	eventually("192.0.2.1")
	replace(resolv, nameserver(answering(t, "192.0.2.2", 0)))
	eventually("192.0.2.2")
	replace(hosts, "192.0.2.3 www.example\n")
	eventually("192.0.2.3")
	replace(hosts, "127.0.0.1 www.example\n")
	eventually("192.168.65.254")
	replace(hosts, "# nothing\n")
	replace(resolv, "# nothing\n")
	eventually("SERVFAIL")
}

// TestSocketsAreClosed: as many descriptors as before, after winners, losers,
// failures and a resolver that never answers.
func TestSocketsAreClosed(t *testing.T) {
	descriptors := func() int {
		t.Helper()
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	resolvers := []*resolver{silentServer(t), refusing(t), answering(t, "192.0.2.1", 0)}
	s := newSetup(t, resolvers...)
	s.udp(t, ask("www.example", miekg.TypeA)) // the poller's own descriptors exist by now
	time.Sleep(silence + 100*time.Millisecond)
	before := descriptors()
	for range 50 {
		s.udp(t, ask("www.example", miekg.TypeA))
	}
	s.names.Set(resolverConfig(resolvers[0]))
	s.udp(t, ask("www.example", miekg.TypeA))
	for end := time.Now().Add(slack * silence); descriptors() > before; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors are open, %d before", descriptors(), before)
		}
	}
}

// TestResolverOverIPv6 asks a resolver that has an IPv6 address only.
func TestResolverOverIPv6(t *testing.T) {
	conn, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, maxMessage)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(addressAnswer(buf[:n], "192.0.2.1"), from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	s := newSetup(t)
	cfg := system.NameConfig{}
	cfg.Resolver.Servers = []netip.AddrPort{conn.LocalAddr().(*net.UDPAddr).AddrPort()}
	s.names.Set(cfg)
	if got, _ := s.addressOrRcode(t); got != "192.0.2.1" {
		t.Errorf("answer is %s", got)
	}
}
