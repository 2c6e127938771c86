package router

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"

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

// dropCapabilities leaves every thread with none.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	// Proof that it worked: chroot needs one.
	if err := unix.Chroot("/"); err == nil {
		return fmt.Errorf("drop capabilities: chroot still works")
	}
	return nil
}

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
