//go:build linux

package shim

import (
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pair returns both ends of a unix socket of sequenced packets.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
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

func write(t *testing.T, c *net.UnixConn, text string, fds ...int) {
	t.Helper()
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix([]byte(text), rights, nil); err != nil {
		t.Fatal(err)
	}
}

func TestReceive(t *testing.T) {
	a, b := pair(t)
	write(t, a, "renew\x00-proto\x00udp")
	got, file, err := receive(b)
	if want := (request{verbRenew, []string{"-proto", "udp"}}); err != nil || file != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("receive = %v, %v, %v", got, file, err)
	}
	write(t, a, "publish", int(os.Stdin.Fd()))
	got, file, err = receive(b)
	if err != nil || file == nil || got.verb != verbPublish || len(got.args) != 0 {
		t.Fatalf("receive = %v, %v, %v", got, file, err)
	}
	_ = file.Close()
	write(t, a, "unpublish\x00-proto\x00udp")
	write(t, a, "unpublic")
	if !unpublishes(b) || unpublishes(b) {
		t.Error("unpublishes is wrong")
	}
	_ = a.Close()
	if _, _, err := receive(b); !errors.Is(err, io.EOF) {
		t.Errorf("receive at the end = %v, want EOF", err)
	}
	if unpublishes(b) {
		t.Error("the end of a shim is taken for its wish")
	}
}

func TestReceiveRefuses(t *testing.T) {
	checkDescriptors(t)
	for _, c := range []struct {
		text string
		fds  []int
	}{
		{strings.Repeat("x", maxRequest+1), nil},
		{strings.Repeat("x", maxRequest+1), []int{0}},
		{"publish", []int{0, 1, 2}},
	} {
		a, b := pair(t)
		write(t, a, c.text, c.fds...)
		if got, file, err := receive(b); err == nil || file != nil {
			t.Errorf("receive of %.40q with %v = %v, %v", c.text, c.fds, got, file)
		}
	}
}

// A refusal that is too long for the shim loses its end only.
func TestAnswerIsBounded(t *testing.T) {
	a, b := pair(t)
	answer(a, errors.New(strings.Repeat("x", 2*maxAnswer)))
	text := make([]byte, 2*maxAnswer)
	if n, err := b.Read(text); err != nil || n != maxAnswer || text[0] != '1' {
		t.Errorf("answer has %d bytes (%v), want %d", n, err, maxAnswer)
	}
}

// An agent answers no nonsense, and goes on.
func TestRegistryRefusesNonsense(t *testing.T) {
	checkDescriptors(t)
	socket, d := socketPath(t), newDaemon()
	startAgent(t, socket, d)
	for _, text := range []string{"GET / HTTP/1.1\r\n\r\n", "format", "publish", "unpublish\x00-host-port\x000", "\x00\x00"} {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "unixpacket", socket)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(limit))
		_, _ = io.WriteString(c, text)
		if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "1\n") {
			t.Errorf("%q is answered %q (%v)", text, got, err)
		}
		_ = c.Close()
	}
	if len(d.calls) > 0 {
		t.Errorf("the daemon is told %q", <-d.calls)
	}
}

func FuzzRequest(f *testing.F) {
	for _, text := range []string{
		"", "publish", "publish\x00-proto\x00tcp\x00-host-ip\x00::\x00-host-port\x0080\x00-container-ip\x00172.17.0.2\x00-container-port\x0080",
		"unpublish\x00-h", "renew\x00-host-ip\x00",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b, err := decode(text).binding()
		if err != nil {
			return
		}
		if !b.Host.IsValid() || !b.Container.IsValid() || b.Host.Port() == 0 || b.Container.Port() == 0 ||
			b.Host.Addr().Is4In6() || !slices.Contains([]string{"tcp", "udp"}, b.Proto.String()) {
			t.Errorf("%q passes with %v", text, b)
		}
	})
}
