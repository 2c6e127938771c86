package logs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// add appends to a log.
func add(t *testing.T, dir, name, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func show(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%s|%s\n", l.Source, l.Text)
	}
	return b.String()
}

func TestReadMergesByTime(t *testing.T) {
	dir := t.TempDir()
	add(t, dir, "daemon.log", "time=2026-01-02T03:04:05.5Z level=INFO msg=b\ngoroutine 1\n\ttrace\ntime=2026-01-02T03:04:09Z msg=e\r\n")
	add(t, dir, "engine.log", "time=\"2026-01-02T03:04:05.1Z\" level=info msg=a\ntime=\"2026-01-02T04:04:06.000000001+01:00\" msg=c\ntime=\"2026-01-02T03:04:08Z\" msg=d\nno end of li")
	all := "engine|time=\"2026-01-02T03:04:05.1Z\" level=info msg=a\n" +
		"daemon|time=2026-01-02T03:04:05.5Z level=INFO msg=b\n" +
		"daemon|goroutine 1\ndaemon|\ttrace\n" +
		"engine|time=\"2026-01-02T04:04:06.000000001+01:00\" msg=c\n" +
		"engine|time=\"2026-01-02T03:04:08Z\" msg=d\n" +
		"daemon|time=2026-01-02T03:04:09Z msg=e\n"
	for n, want := range map[int]string{
		-1: all, 0: "", 100: all, 1: "daemon|time=2026-01-02T03:04:09Z msg=e\n",
	} {
		r := Open(dir, Sources())
		lines, err := r.Read(n)
		if err != nil || show(lines) != want {
			t.Errorf("Read(%d) = %v\n%s\nwant\n%s", n, err, show(lines), want)
		}
		r.Close()
	}
	r := Open(dir, []string{"engine"})
	defer r.Close()
	lines, err := r.Read(-1)
	if err != nil || len(lines) != 3 {
		t.Errorf("Read of one source = %v, %v", lines, err)
	}
}

func TestReadNothing(t *testing.T) {
	r := Open(filepath.Join(t.TempDir(), "none"), Sources())
	defer r.Close()
	if lines, err := r.Read(-1); len(lines) != 0 || err != nil {
		t.Errorf("Read = %v, %v", lines, err)
	}
}

func TestReadLeavesOutTheFarPast(t *testing.T) {
	dir := t.TempDir()
	add(t, dir, "daemon.log", strings.Repeat("0123456789abcde\n", maxRead/16+10))
	r := Open(dir, []string{"daemon"})
	defer r.Close()
	lines, err := r.Read(-1)
	if err != nil || len(lines) != maxRead/16 {
		t.Errorf("Read = %d lines, %v, want %d", len(lines), err, maxRead/16)
	}
}

// followed collects what Follow emits, and waits for an expectation.
type followed struct {
	lines chan Line
	seen  []string
}

func (f *followed) want(t *testing.T, texts ...string) {
	t.Helper()
	timeout := time.After(5 * time.Second)
	for len(f.seen) < len(texts) {
		select {
		case l := <-f.lines:
			f.seen = append(f.seen, l.Source+"|"+l.Text)
		case <-timeout:
			t.Fatalf("seen %q, want %q", f.seen, texts)
		}
	}
	if !slices.Equal(f.seen, texts) {
		t.Fatalf("seen %q, want %q", f.seen, texts)
	}
	f.seen = nil
}

func TestFollow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made by follow")
	ctx, stop := context.WithCancel(t.Context())
	f := &followed{lines: make(chan Line, 100)}
	ended := make(chan error)
	go func() {
		r := Open(dir, []string{"daemon", "engine"})
		defer r.Close()
		ended <- r.Follow(ctx, func(l Line) { f.lines <- l })
	}()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("Follow makes no directory")
		}
	}
	path := filepath.Join(dir, "daemon.log")

	add(t, dir, "daemon.log", "one\ntw")
	f.want(t, "daemon|one")
	add(t, dir, "engine.log", "eins\n")
	f.want(t, "engine|eins")
	add(t, dir, "daemon.log", "o\nthree\n")
	f.want(t, "daemon|two", "daemon|three")

	// Truncated: what comes then is new.
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	add(t, dir, "daemon.log", "4\n")
	f.want(t, "daemon|4")

	// Renamed: the old file's last words, then the new file.
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	add(t, dir, "daemon.log.1", "last word\n")
	f.want(t, "daemon|last word")
	add(t, dir, "daemon.log", "a new file\n")
	f.want(t, "daemon|a new file")

	stop()
	if err := <-ended; err != nil {
		t.Errorf("Follow = %v", err)
	}
}
