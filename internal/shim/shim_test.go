//go:build linux

package shim

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
)

func TestPublishAndInterrupt(t *testing.T) {
	for _, c := range []struct {
		name, host, container string
		proto                 portolan.Proto
		listening             bool
	}{
		{"tcp", "127.0.0.1", "127.0.0.1:0", portolan.TCP, true},
		{"tcp, only bound", "127.0.0.1", "127.0.0.1:0", portolan.TCP, false},
		{"tcp v6", "::1", "[::1]:0", portolan.TCP, true},
		{"tcp v6 to v4", "::1", "127.0.0.1:0", portolan.TCP, true},
		{"udp", "127.0.0.1", "127.0.0.1:0", portolan.UDP, false},
		{"udp v6 to v4", "::1", "127.0.0.1:0", portolan.UDP, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkDescriptors(t)
			socket, d := socketPath(t), newDaemon()
			startAgent(t, socket, d)
			b := portolan.Binding{Proto: c.proto, Host: freeAt(t, c.proto, c.host)}
			if c.proto == portolan.TCP {
				b.Container = echoTCP(t, c.container)
			} else {
				b.Container = echoUDP(t, c.container)
			}
			engines := bound(t, c.proto, b.Host, c.listening)
			p := published(t, socket, b, engines)
			_ = engines.Close() // as the engine does now
			d.already(t, "publish "+b.String())
			answers(t, c.proto, b.Host)
			answers(t, c.proto, b.Host)
			p.end(t, syscall.SIGINT)
			d.already(t, "unpublish "+b.String())
			isFree(t, c.proto, b.Host)
		})
	}
}

// An engine before 28 passes no socket.
func TestWithoutSocket(t *testing.T) {
	checkDescriptors(t)
	socket, d := socketPath(t), newDaemon()
	startAgent(t, socket, d)
	b := portolan.Binding{Proto: portolan.TCP, Host: netip.MustParseAddrPort("0.0.0.0:80"), Container: netip.MustParseAddrPort("172.17.0.2:80")}
	p := published(t, socket, b, nil)
	d.already(t, "publish "+b.String())
	p.end(t, syscall.SIGINT)
	d.already(t, "unpublish "+b.String())
}

func TestRefusalReachesTheEngine(t *testing.T) {
	checkDescriptors(t)
	socket, d := socketPath(t), newDaemon()
	startAgent(t, socket, d)
	const text = "listen on 0.0.0.0:80/tcp: address already in use: held by nginx (pid 7)"
	d.refuse(errors.New(text))
	b := portolan.Binding{Proto: portolan.TCP, Host: freeAt(t, portolan.TCP, "127.0.0.1"), Container: netip.MustParseAddrPort("172.17.0.2:80")}
	engines := bound(t, portolan.TCP, b.Host, true)
	p := startShim(t, socket, b, engines)
	if p.status != "1\n"+text {
		t.Errorf("status = %q", p.status)
	}
	wantExit(t, p, 1)
	_ = engines.Close()
	isFree(t, portolan.TCP, b.Host)
}

func wantExit(t *testing.T, p *process, code int) {
	t.Helper()
	select {
	case <-p.exited:
		if got := p.cmd.ProcessState.ExitCode(); got != code {
			t.Errorf("exit code %d, want %d", got, code)
		}
	case <-time.After(limit):
		t.Error("the shim does not exit")
	}
}

func TestFlagErrorsReachTheEngine(t *testing.T) {
	checkDescriptors(t)
	socket, d := socketPath(t), newDaemon()
	startAgent(t, socket, d)
	b := portolan.Binding{Proto: portolan.TCP, Host: netip.MustParseAddrPort("0.0.0.0:80"), Container: netip.MustParseAddrPort("172.17.0.2:80")}
	for _, c := range []struct{ flags, want string }{
		{"-proto sctp", "1\npublish 0.0.0.0:80/sctp: Portolan carries TCP and UDP only"},
		{"-host-port 70000", "1\nread docker-proxy flags: ports 70000 and 80: want 1 to 65535"},
		{"-host-ip here", "1\nread docker-proxy flags: "},
		{"-unknown", "1\nread docker-proxy flags: "},
	} {
		p := startShim(t, socket, b, nil, strings.Fields(c.flags)...)
		if !strings.HasPrefix(p.status, c.want) {
			t.Errorf("%s: status = %q, want %q", c.flags, p.status, c.want)
		}
		wantExit(t, p, 1)
	}
}

func TestWithoutAgent(t *testing.T) {
	socket := socketPath(t)
	b := portolan.Binding{Proto: portolan.TCP, Host: netip.MustParseAddrPort("0.0.0.0:80"), Container: netip.MustParseAddrPort("172.17.0.2:80")}
	begin := time.Now()
	p := startShim(t, socket, b, nil)
	if !strings.HasPrefix(p.status, "1\n") || !strings.Contains(p.status, socket) {
		t.Errorf("status = %q, want an error that names the agent's socket", p.status)
	}
	if took := time.Since(begin); took > startLimit {
		t.Errorf("the error takes %v", took)
	}
	wantExit(t, p, 1)
}

// When dockerd dies the machine's port is free at once and the host's stays.
func TestDeathOfTheEngine(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		for _, proto := range []portolan.Proto{portolan.TCP, portolan.UDP} {
			t.Run(s.String()+" "+proto.String(), func(t *testing.T) {
				checkDescriptors(t)
				socket, d := socketPath(t), newDaemon()
				startAgent(t, socket, d)
				b := portolan.Binding{Proto: proto, Host: freeAt(t, proto, "127.0.0.1"), Container: echoTCP(t, "127.0.0.1:0")}
				engines := bound(t, proto, b.Host, proto == portolan.TCP)
				p := published(t, socket, b, engines)
				_ = engines.Close()
				d.already(t, "publish "+b.String())
				p.end(t, s)
				becomesFree(t, proto, b.Host)
				d.want(t, "release "+b.String())
			})
		}
	}
}

func TestAgentRestart(t *testing.T) {
	checkDescriptors(t)
	socket, d := socketPath(t), newDaemon()
	first := startAgent(t, socket, d)
	b := portolan.Binding{Proto: portolan.TCP, Host: freeAt(t, portolan.TCP, "127.0.0.1"), Container: echoTCP(t, "127.0.0.1:0")}
	engines := bound(t, portolan.TCP, b.Host, true)
	p := published(t, socket, b, engines)
	_ = engines.Close()
	d.want(t, "publish "+b.String())
	answers(t, portolan.TCP, b.Host)

	first.stop()
	second := startAgent(t, socket, d)
	background(t, second.Sync)
	d.want(t, "renew "+b.String()) // not a release: the engine lives
	answers(t, portolan.TCP, b.Host)
	p.end(t, syscall.SIGINT)
	// The shim may not have read the answer to its renewal: it begins anew then.
	d.already(t, "unpublish "+b.String(), "release "+b.String())
	isFree(t, portolan.TCP, b.Host)
}

// The engine waits for the shim without bound, so it goes without an agent too.
func TestInterruptWithoutAgent(t *testing.T) {
	checkDescriptors(t)
	socket, d := socketPath(t), newDaemon()
	a := startAgent(t, socket, d)
	b := portolan.Binding{Proto: portolan.TCP, Host: freeAt(t, portolan.TCP, "127.0.0.1"), Container: netip.MustParseAddrPort("172.17.0.2:80")}
	engines := bound(t, portolan.TCP, b.Host, true)
	p := published(t, socket, b, engines)
	_ = engines.Close()
	a.stop()
	begin := time.Now()
	p.end(t, syscall.SIGINT)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the exit takes %v", took)
	}
	isFree(t, portolan.TCP, b.Host)
}

// An agent that comes while a shim without one is interrupted unpublishes.
func TestInterruptReachesNextAgent(t *testing.T) {
	checkDescriptors(t)
	socket, d := socketPath(t), newDaemon()
	a := startAgent(t, socket, d)
	b := portolan.Binding{Proto: portolan.UDP, Host: netip.MustParseAddrPort("0.0.0.0:53"), Container: netip.MustParseAddrPort("172.17.0.2:53")}
	p := published(t, socket, b, nil)
	d.want(t, "publish "+b.String())
	a.stop()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	startAgent(t, socket, d)
	d.want(t, "unpublish "+b.String())
	wantExit(t, p, 0)
}

func TestDaemonRestart(t *testing.T) {
	checkDescriptors(t)
	socket, d := socketPath(t), newDaemon()
	a := startAgent(t, socket, d)
	b := portolan.Binding{Proto: portolan.TCP, Host: netip.MustParseAddrPort("0.0.0.0:80"), Container: netip.MustParseAddrPort("172.17.0.2:80")}
	p := published(t, socket, b, nil)
	d.want(t, "publish "+b.String())
	for range 2 {
		stop := background(t, a.Sync) // as on each connection to a daemon
		d.want(t, "renew "+b.String())
		stop()
	}
	p.end(t, syscall.SIGINT)
	d.want(t, "unpublish "+b.String())
	stop := background(t, a.Sync)
	stop()
	if len(d.calls) > 0 {
		t.Errorf("the daemon is told %q of a port that is closed", <-d.calls)
	}
}

// A daemon that can't be told at once is told again.
func TestRenewIsRepeated(t *testing.T) {
	checkDescriptors(t)
	socket, d := socketPath(t), newDaemon()
	a := startAgent(t, socket, d)
	b := portolan.Binding{Proto: portolan.TCP, Host: netip.MustParseAddrPort("0.0.0.0:80"), Container: netip.MustParseAddrPort("172.17.0.2:80")}
	published(t, socket, b, nil)
	d.want(t, "publish "+b.String())
	d.refuse(syscall.EADDRINUSE)
	background(t, a.Sync)
	d.want(t, "renew "+b.String())
	d.refuse(nil)
	a.wakeSync() // instead of renewPause
	d.want(t, "renew "+b.String())
}

func TestUnpublishThatFailsResyncs(t *testing.T) {
	checkDescriptors(t)
	socket, d := socketPath(t), newDaemon()
	startAgent(t, socket, d)
	b := portolan.Binding{Proto: portolan.TCP, Host: netip.MustParseAddrPort("0.0.0.0:80"), Container: netip.MustParseAddrPort("172.17.0.2:80")}
	p := published(t, socket, b, nil)
	d.want(t, "publish "+b.String())
	d.refuse(syscall.EPIPE)
	p.end(t, syscall.SIGINT)
	d.already(t, "unpublish "+b.String())
	d.already(t, "resync")
}

// A shim that is told of late must not take its successor's port away.
func TestSuccessorOfTheSameBinding(t *testing.T) {
	checkDescriptors(t)
	socket, d := socketPath(t), newDaemon()
	startAgent(t, socket, d)
	b := portolan.Binding{Proto: portolan.TCP, Host: netip.MustParseAddrPort("0.0.0.0:80"), Container: netip.MustParseAddrPort("172.17.0.2:80")}
	old := published(t, socket, b, nil)
	d.want(t, "publish "+b.String())
	next := published(t, socket, b, nil)
	d.want(t, "publish "+b.String())
	old.end(t, syscall.SIGKILL)
	next.end(t, syscall.SIGINT)
	d.already(t, "unpublish "+b.String())
}

// dockerd asks but once for a port of the routing mesh, and nobody reads what it
// is told: the port is taken, and tried again.
func TestRefusedMeshPortIsTriedAgain(t *testing.T) {
	checkDescriptors(t)
	socket, d := socketPath(t), newDaemon()
	b := portolan.Binding{Proto: portolan.TCP, Host: netip.MustParseAddrPort("0.0.0.0:80"), Container: netip.MustParseAddrPort("172.18.0.2:80")}
	a := startAgent(t, socket, d, b.Container.Addr())
	d.refuse(syscall.EADDRINUSE)
	p := published(t, socket, b, nil)
	d.want(t, "publish "+b.String())
	background(t, a.Sync)
	d.want(t, "renew "+b.String())
	d.refuse(nil)
	a.wakeSync() // instead of renewPause
	d.want(t, "renew "+b.String())
	p.end(t, syscall.SIGINT)
	d.already(t, "unpublish "+b.String(), "renew "+b.String())
}
