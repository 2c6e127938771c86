package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// runDaemon is the main of a daemon without any capability, which serves an echo
// to everybody until it is killed.
func runDaemon(socket string) error {
	if err := dropCapabilities(); err != nil {
		return err
	}
	d, err := Attach(context.Background(), socket, portolan.DefaultLink(), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	h := &fakeHandler{open: openEcho}
	h.udp = func(flow portolan.Flow, payload []byte) { _ = d.ReplyUDP(flow, payload) }
	h.echo = func(flow portolan.Flow, seq uint16, payload []byte) { _ = d.ReplyEcho(flow, seq, payload) }
	dial := func() error {
		for _, ends := range [][2]netip.Addr{{client4, container4}, {client6, container6}} {
			conn, err := d.DialTCP(context.Background(), ends[0], netip.AddrPortFrom(ends[1], 8080))
			if err != nil {
				return err
			}
			_ = conn.Close()
		}
		return nil
	}
	if err := dial(); err != nil {
		return err
	}
	fmt.Println("ready")
	return d.Run(context.Background(), h)
}

// dropCapabilities runs this program again as a user 0 without capabilities.
func dropCapabilities() error {
	const again = roleVariable + "_AGAIN"
	if os.Getenv(again) != "" {
		// Proof that it worked: chroot needs one.
		if err := unix.Chroot("/"); !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("chroot without capabilities: %v", err)
		}
		return nil
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secbitNoRoot, 0, 0, 0); err != nil {
		return fmt.Errorf("set securebits: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return unix.Exec(os.Args[0], os.Args, append(os.Environ(), again+"=1"))
}

// secbitNoRoot is SECBIT_NOROOT and its lock, of capabilities(7): exec gives
// user 0 no capability.
const secbitNoRoot = 1<<0 | 1<<1

// TestDaemonsWithoutCapabilities kills one daemon and attaches the next.
func TestDaemonsWithoutCapabilities(t *testing.T) {
	l := newLab(t)
	l.listen(t, container4, 8080)
	l.listen(t, container6, 8080)
	for i := range 2 {
		daemon := start(t, "daemon", 0, l.socket)
		daemon.waitReady(t)
		both(t, func(t *testing.T, server, _ netip.Addr) {
			conn, err := l.dial("tcp", netip.AddrPortFrom(server, 80), 5*time.Second)
			if err != nil {
				t.Fatalf("daemon %d: %v", i, err)
			}
			defer conn.Close()
			checkEcho(t, conn)
			udp, err := l.dial("udp", netip.AddrPortFrom(server, 53), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer udp.Close()
			checkEcho(t, udp)
		})
		daemon.kill()
		// What arrives meanwhile must not confuse the next daemon.
		if _, err := l.dial("tcp", netip.AddrPortFrom(server4, 80), 200*time.Millisecond); err == nil {
			t.Error("dial without a daemon succeeds")
		}
	}
}

func TestStop(t *testing.T) {
	l := newLab(t)
	if err := Stop(l.socket); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.helper.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("helper: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("helper goes on")
	}
	if _, err := os.Stat(l.socket); !os.IsNotExist(err) {
		t.Errorf("socket after stop: %v, want it gone", err)
	}
}

// A helper without descriptors waits: were it to end, the machine would end, too.
func TestHelperOutlivesLackOfDescriptors(t *testing.T) {
	l := newLab(t)
	pid := l.helper.cmd.Process.Pid
	var was unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max}, nil); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", l.socket) // waits in the queue
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	time.Sleep(2 * acceptPause) // in which the helper tries
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &was, nil); err != nil {
		t.Fatal(err)
	}
	h := &helper{path: l.socket}
	defer h.close()
	fds, err := h.request(wordAttach)
	closeAll(fds)
	if err != nil {
		t.Errorf("attach after the lack of descriptors: %v", err)
	}
}
