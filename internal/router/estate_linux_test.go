package router

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
)

// firstInherited is the first descriptor after stdio: slow0.
const firstInherited = 3

// runResumed is the main of a helper that goes on where another one died.
func runResumed(socket, pid string) error {
	machine, err := strconv.Atoi(pid)
	if err != nil {
		return err
	}
	n, err := Resume(firstInherited, machine)
	if err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil {
		return err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		return err
	}
	return n.Serve(context.Background(), ln)
}

// The helper is killed while a daemon carries flows: they go on, another helper
// resumes with what the daemon has, requests wait for it, and the next daemon
// attaches to it.
func TestAnotherHelperResumes(t *testing.T) {
	l := newLab(t)
	d, stop := l.attachUntil(t, &fakeHandler{open: openEcho})
	before, err := l.dial("tcp", netip.AddrPortFrom(server4, 80), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	checkEcho(t, before)
	l.helper.kill()
	checkEcho(t, before)

	asked := make(chan error, 1)
	go func() {
		fds, err := d.helper.request(wordSockets, string(tcp4), "1")
		closeAll(fds)
		asked <- err
	}()
	estate, err := d.Estate()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(estate.Close)
	var said strings.Builder
	cmd := exec.CommandContext(t.Context(), "nsenter", "--net=/proc/self/fd/8", "--", os.Args[0], l.socket, strconv.Itoa(l.machine.pid()))
	cmd.Env = append(os.Environ(), roleVariable+"=resumed")
	cmd.ExtraFiles = append(append([]*os.File{}, estate.Router...), estate.Network)
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	if err := <-asked; err != nil {
		t.Errorf("a request meanwhile: %v", err)
	}
	checkEcho(t, before)
	for i := range poolSize + 1 { // beyond what the first helper made
		conn, err := d.DialTCP(t.Context(), client4, netip.AddrPortFrom(container4, 9))
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Fatalf("dial %d to a port nobody serves: %v, %v", i, conn, err)
		}
	}
	stop()

	_, stop = l.attachUntil(t, &fakeHandler{open: openEcho})
	defer stop()
	after, err := l.dial("tcp", netip.AddrPortFrom(server6, 80), 5*time.Second)
	if err != nil {
		t.Fatalf("with the next daemon: %v", err)
	}
	defer after.Close()
	checkEcho(t, after)
	stop()
	l.link = portolan.Link{V4: netip.MustParsePrefix("10.77.0.0/24"), V6: netip.MustParsePrefix("fd77::/64")}
	if err := Move(l.socket, l.link); err != nil {
		t.Fatalf("the other helper moves the link: %v", err)
	}
	l.checkLink(t)
}
