//go:build linux

package publish

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A client of the host may have got the port as its own.
func TestHolderIsAConnection(t *testing.T) {
	table, _ := newTable(t, nil)
	far := listen(t, "tcp", "127.0.0.1:0")
	host := freePort(t, "tcp", "127.0.0.1")
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(host), Timeout: limit,
		Control: func(_, _ string, c syscall.RawConn) error { return c.Control(withoutReuse) }}
	c, err := d.DialContext(t.Context(), "tcp", far.Addr().String())
	must(t, err)
	defer func() { _ = c.Close() }()
	err = table.Publish(t.Context(), tcp(host, netip.MustParseAddrPort("172.17.0.2:80")))
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "in use by a connection of") || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
		t.Errorf("Publish = %v, want the connection's owner", err)
	}
}

func withoutReuse(fd uintptr) {
	_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 0)
}

// Without the right to look into other users' processes the user is named.
func TestHolderOfAnotherUser(t *testing.T) {
	if got, want := owner(t.Context(), socketUsers{"socket:[1]": "33"}, nil), "a process of user 33"; got != want {
		t.Errorf("owner = %q, want %q", got, want)
	}
}

// A process of another network namespace is looked into after all of this one.
func TestHolderIsSoughtHereFirst(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	sleep := func(flags uintptr) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sleep", "60")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		must(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return fmt.Sprint("/proc/", cmd.Process.Pid)
	}
	elsewhere, here, self := sleep(syscall.CLONE_NEWNET), sleep(0), fmt.Sprint("/proc/", os.Getpid())
	order := slices.Collect(likelyFirst())
	last := slices.Index(order, elsewhere)
	for _, process := range []string{here, self} {
		if at := slices.Index(order, process); at < 0 || at > last {
			t.Errorf("%s is at %d, the process of another namespace at %d", process, at, last)
		}
	}
}

func TestParseSocket(t *testing.T) {
	const line = "   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0000000000000000 100 0 0 10 0"
	want := socketLine{local: netip.MustParseAddrPort("127.0.0.1:80"), state: tcpListen, uid: "1000", inode: "12345"}
	if got, ok := parseSocket(line); !ok || got != want {
		t.Errorf("parseSocket = %+v, %v; want %+v", got, ok, want)
	}
	for _, bad := range []string{"", "a b c", strings.Replace(line, "12345", "0", 1), strings.Replace(line, "0100007F", "01", 1)} {
		if got, ok := parseSocket(bad); ok {
			t.Errorf("parseSocket(%q) = %+v", bad, got)
		}
	}
}

func TestParseAddrPort(t *testing.T) {
	for text, want := range map[string]string{
		"0100007F:0050":                         "127.0.0.1:80",
		"00000000:FFFF":                         "0.0.0.0:65535",
		"00000000000000000000000001000000:1F90": "[::1]:8080",
		"0000000000000000FFFF00000100007F:0016": "[::ffff:127.0.0.1]:22",
	} {
		got, err := parseAddrPort(text)
		if err != nil || got != netip.MustParseAddrPort(want) {
			t.Errorf("parseAddrPort(%q) = %v, %v; want %s", text, got, err, want)
		}
	}
}

func FuzzParseAddrPort(f *testing.F) {
	for _, text := range []string{"0100007F:0050", "", ":", "xx:yy", "0100007F0100007F:0050", "0100007F:10000"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := parseAddrPort(text); (err == nil) != got.IsValid() {
			t.Errorf("parseAddrPort(%q) = %v, %v", text, got, err)
		}
	})
}
