//go:build linux

package shim

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pair returns both ends of a unix stream.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(limit))
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

func TestReceive(t *testing.T) {
	a, b := pair(t)
	var got request
	if err := send(a, request{Verb: verbRenew}, -1); err != nil {
		t.Fatal(err)
	}
	if file, err := receive(b, &got); err != nil || file != nil || got.Verb != verbRenew {
		t.Errorf("receive = %v, %v, %v", got, file, err)
	}
	if err := send(a, request{Verb: verbPublish}, int(os.Stdin.Fd())); err != nil {
		t.Fatal(err)
	}
	file, err := receive(b, &got)
	if err != nil || file == nil || got.Verb != verbPublish {
		t.Fatalf("receive = %v, %v, %v", got, file, err)
	}
	_ = file.Close()
	for _, part := range []string{`{"verb":`, `"unpublish"}`, "\n"} { // in pieces
		go func() { _, _ = io.WriteString(a, part) }()
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := receive(b, &got); err != nil || got.Verb != verbUnpublish {
		t.Errorf("receive in pieces = %v, %v", got, err)
	}
	_ = a.Close()
	if _, err := receive(b, &got); !errors.Is(err, io.EOF) {
		t.Errorf("receive at the end = %v, want EOF", err)
	}
}

func TestReceiveRefuses(t *testing.T) {
	for _, text := range []string{"no json\n", strings.Repeat("x", maxLine+1), `{"verb":"publish"}`, `{"binding":{"proto":"sctp"}}` + "\n"} {
		checkDescriptors(t)
		a, b := pair(t)
		go func() {
			_, _, _ = a.WriteMsgUnix([]byte(text), syscall.UnixRights(0), nil)
			_ = a.CloseWrite()
		}()
		var got request
		if file, err := receive(b, &got); err == nil || file != nil {
			t.Errorf("receive of %.40q = %v, %v", text, file, err)
		}
	}
	a, b := pair(t)
	if _, _, err := a.WriteMsgUnix([]byte("{}\n"), syscall.UnixRights(0, 1, 2), nil); err != nil {
		t.Fatal(err)
	}
	var got request
	if file, err := receive(b, &got); err == nil || file != nil {
		t.Errorf("receive of three descriptors = %v, %v", file, err)
	}
}

// An agent answers no nonsense, and goes on.
func TestRegistryRefusesNonsense(t *testing.T) {
	checkDescriptors(t)
	socket, d := socketPath(t), newDaemon()
	startAgent(t, socket, d)
	for _, text := range []string{"", "GET / HTTP/1.1\r\n\r\n", `{"verb":"format"}` + "\n", `{"verb":"publish"}` + "\n", `{"verb":"unpublish"}` + "\n"} {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(limit))
		_, _ = io.WriteString(c, text)
		_ = c.(*net.UnixConn).CloseWrite()
		_, _ = io.ReadAll(c)
		_ = c.Close()
	}
	if len(d.calls) > 0 {
		t.Errorf("the daemon is told %q", <-d.calls)
	}
}

func FuzzDecode(f *testing.F) {
	for _, text := range []string{"{}\n", `{"verb":"publish","binding":{"proto":"tcp","host":"0.0.0.0:80","container":"172.17.0.2:80"}}` + "\n", "\n", "[[[[\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		line := make([]byte, maxLine)
		n := copy(line, text)
		if !strings.Contains(text[:n], "\n") {
			return // would read on
		}
		var got request
		if decode(nil, line, n, &got) == nil && checkRequest(got) == nil && !got.Binding.Host.IsValid() {
			t.Errorf("%q passes with %v", text, got)
		}
	})
}
