package guest

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keptPath tells the test binary to be an agent.
const keptPath = "PORTOLAN_TEST_KEPT_PATH"

// TestKept plays PID 1 and two agents: what the first hands over the second has,
// with the client that came in between; what is dropped nobody has.
func TestKept(t *testing.T) {
	if path := os.Getenv(keptPath); path != "" {
		playAgent(t, path)
		return
	}
	k, err := newKeeper(slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	agent := func() string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestKept$")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.Env = append(os.Environ(), keptPath+"="+path)
		if err := errors.Join(k.start(cmd), cmd.Wait()); err != nil {
			t.Fatalf("%v\n%s", err, &out)
		}
		return out.String()
	}
	kept := func(want int) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			k.mu.Lock()
			n := len(k.files)
			k.mu.Unlock()
			if n == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("PID 1 holds %d sockets, want %d", n, want)
			}
		}
	}
	if out := agent(); !strings.Contains(out, "made") {
		t.Errorf("the first agent: %s", out)
	}
	kept(1)
	client, err := new(net.Dialer).DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if out := agent(); !strings.Contains(out, "accepted") {
		t.Errorf("the second agent: %s", out)
	}
	kept(0)
}

// playAgent makes the listener, or takes it, serves one client and drops it.
func playAgent(t *testing.T, path string) {
	k, err := OpenKept()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv(keptVariable) != "" {
		t.Error("programs that the agent starts are told of its sockets")
	}
	l, err := k.Take("a socket")
	if err != nil {
		t.Fatal(err)
	}
	if l == nil {
		made, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		made.SetUnlinkOnClose(false)
		if err := k.Keep("a socket", made); err != nil {
			t.Fatal(err)
		}
		closed := make(chan struct{})
		go func() {
			_, _ = made.Accept()
			close(closed)
		}()
		time.Sleep(50 * time.Millisecond) // until it waits; sooner, the test would see less
		_ = made.Close()
		<-closed // or a listener that is held can't be closed
		println("made")
		return
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := k.Drop("a socket"); err != nil {
		t.Fatal(err)
	}
	println("accepted")
}

// Whatever an agent says to PID 1, no descriptor that came with it is lost, and
// none is kept without a name.
func FuzzKept(f *testing.F) {
	for _, text := range []string{`{"keep":"/a"}`, `{"drop":"/held"}`, `{"keep":"/held","drop":"/held"}`, `{"keep":"/a","drop":"/b"}`, `{}`, `null`, `{`} {
		f.Add([]byte(text), true)
		f.Add([]byte(text), false)
	}
	f.Fuzz(func(t *testing.T, text []byte, withFile bool) {
		held, given := open(t), open(t)
		k := &keeper{files: map[string]*os.File{"/held": held}}
		var rights []byte
		fd := -1
		if withFile {
			var err error
			if fd, err = unix.Dup(int(given.Fd())); err != nil {
				t.Fatal(err)
			}
			rights = unix.UnixRights(fd)
		}
		err := k.take(text, rights)
		kept := 0
		for name, file := range k.files {
			if name == "" {
				t.Errorf("%q keeps a file without a name", text)
			}
			if file != held {
				kept++
			}
			if _, err := file.Stat(); err != nil {
				t.Errorf("%q: what is kept as %s: %v", text, name, err)
			}
			_ = file.Close()
		}
		if kept > 1 || kept == 1 && (err != nil || !withFile) {
			t.Errorf("%q keeps %d files, with %v", text, kept, err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			t.Errorf("%q leaves a descriptor open", text)
		}
	})
}

// open opens any file.
func open(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}
