package proxy_test

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// shell runs a script of busybox in a new container.
func shell(flags ...string) []string {
	return append(append([]string{"run", "--rm", "--entrypoint", "/bin/busybox"}, flags...), testimage.Name, "sh", "-c")
}

// TestEngineSocket: what docker does beyond simple requests passes the engine
// socket as it is.
func TestEngineSocket(t *testing.T) {
	s := stage.Up(t)
	s.Docker(t, append(shell("-d", "--name", "long"), "while :; do sleep 1; done")...)
	t.Run("attach", func(t *testing.T) { checkAttach(t, s) })
	t.Run("exec", func(t *testing.T) { checkExec(t, s) })
	t.Run("logs", func(t *testing.T) { checkLogs(t, s) })
	t.Run("events", func(t *testing.T) { checkEvents(t, s) })
	t.Run("200 streams", func(t *testing.T) { checkStreams(t, s) })
	t.Run("archive", func(t *testing.T) { checkArchive(t, s) })
}

// dockerWith runs docker with an input and returns its output.
func dockerWith(t *testing.T, s *stage.Stage, in io.Reader, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := s.Command(ctx, "docker", args...)
	cmd.Stdin = in
	out, err := cmd.Output()
	return string(out), err
}

// checkAttach: `docker run -i` is create, attach with both directions, start.
func checkAttach(t *testing.T, s *stage.Stage) {
	in := strings.Repeat("all that is said comes back\n", 1<<16)
	out, err := dockerWith(t, s, strings.NewReader(in), append(shell("-i"), "cat; echo end")...)
	if err != nil || out != in+"end\n" {
		t.Errorf("%d bytes come back of %d: %v", len(out), len(in), err)
	}
	if out, code := s.TryDocker(t, append(shell("-t"), "echo on a terminal; exit 3")...); code != 3 || !strings.Contains(out, "on a terminal") {
		t.Errorf("with a terminal: exit code %d: %s", code, out)
	}
}

func checkExec(t *testing.T, s *stage.Stage) {
	in := strings.Repeat("x", 3<<20)
	out, err := dockerWith(t, s, strings.NewReader(in), "exec", "-i", "long", "/bin/busybox", "cat")
	if err != nil || out != in {
		t.Errorf("%d bytes come back of %d: %v", len(out), len(in), err)
	}
	if _, code := s.TryDocker(t, "exec", "long", "/bin/busybox", "sh", "-c", "exit 7"); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
	s.Docker(t, "exec", "-d", "long", "/bin/busybox", "touch", "/detached")
	stage.Eventually(t, 5*time.Second, "what runs detached has run", func() bool {
		_, code := s.TryDocker(t, "exec", "long", "/bin/busybox", "test", "-e", "/detached")
		return code == 0
	})
}

// follow starts a docker command that goes on, and returns its lines.
func follow(t *testing.T, s *stage.Stage, args ...string) <-chan string {
	t.Helper()
	cmd := s.Command(t.Context(), "docker", args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			select {
			case lines <- scan.Text():
			case <-t.Context().Done():
				return
			}
		}
	}()
	return lines
}

// await reads lines until one has the text. What is said arrives at once: the
// limit is five times the second that it may take on a busy computer.
func await(t *testing.T, lines <-chan string, text string) {
	t.Helper()
	late := time.After(5 * time.Second)
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("ended before %q", text)
			}
			if strings.Contains(line, text) {
				return
			}
		case <-late:
			t.Fatalf("no %q", text)
		}
	}
}

func checkLogs(t *testing.T, s *stage.Stage) {
	s.Docker(t, append(shell("-d", "--name", "teller", "-v", "/said"), "touch /said/x; tail -f /said/x")...)
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "teller") })
	lines := follow(t, s, "logs", "-f", "teller")
	for _, word := range []string{"first", "second"} {
		s.Docker(t, "exec", "teller", "/bin/busybox", "sh", "-c", "echo "+word+" >> /said/x")
		await(t, lines, word)
	}
}

func checkEvents(t *testing.T, s *stage.Stage) {
	lines := follow(t, s, "events", "--since", "0s", "--filter", "type=network")
	for _, name := range []string{"one", "two"} {
		s.Docker(t, "network", "create", name)
		t.Cleanup(func() { s.Docker(t, "network", "rm", name) })
		await(t, lines, "name="+name)
	}
}

// checkStreams: 200 streams of one container that stand at the same time, half of
// them followed logs, half attached; all hear its word.
func checkStreams(t *testing.T, s *stage.Stage) {
	const streams, word = 200, "heard by all"
	s.Docker(t, append(shell("-d", "--name", "caller"), "until [ -e /go ]; do sleep 1; done; echo "+word+"; sleep 100")...)
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "caller") })
	requests := []string{
		"GET /containers/caller/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: docker\r\n\r\n",
		"POST /containers/caller/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
	}
	heard := make(chan error, streams)
	for i := range streams {
		conn, err := new(net.Dialer).DialContext(t.Context(), "unix", filepath.Join(s.RunDir, "default", "docker.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(conn)
		if _, err := io.WriteString(conn, requests[i%len(requests)]); err != nil {
			t.Fatal(err)
		}
		if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, []string{"HTTP/1.1 200", "HTTP/1.1 101"}[i%2]) {
			t.Fatalf("stream %d begins with %q, %v", i, line, err)
		}
		go func() {
			for {
				line, err := in.ReadString('\n')
				if err != nil || strings.Contains(line, word) {
					heard <- err
					return
				}
			}
		}()
	}
	s.Docker(t, "exec", "caller", "/bin/busybox", "touch", "/go")
	for i := range streams {
		if err := <-heard; err != nil {
			t.Fatalf("after %d streams: %v", i, err)
		}
	}
}

// checkArchive: an archive of 2 GB both ways.
func checkArchive(t *testing.T, s *stage.Stage) {
	const size = 2 << 30
	sum := sha256.New()
	r, w := io.Pipe()
	go func() { w.CloseWithError(bigArchive(io.Writer(w), sum, size)) }()
	if _, err := dockerWith(t, s, r, "cp", "-", "long:/"); err != nil {
		t.Fatal(err)
	}
	want := hex.EncodeToString(sum.Sum(nil))
	if got := s.Docker(t, "exec", "long", "/bin/busybox", "sha256sum", "/big"); !strings.HasPrefix(got, want) {
		t.Errorf("into the container: %s, want %s", got, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := s.Command(ctx, "docker", "cp", "long:/big", "-")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	archive := tar.NewReader(out)
	back := sha256.New()
	if _, err := archive.Next(); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(back, archive)
	if err != nil || n != size || hex.EncodeToString(back.Sum(nil)) != want {
		t.Errorf("out of the container: %d bytes, %x, %v; want %s", n, back.Sum(nil), err, want)
	}
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// bigArchive writes a tar of one file, big, of size bytes that are no two blocks
// the same, and gives its content to sum.
func bigArchive(w io.Writer, sum io.Writer, size int64) error {
	archive := tar.NewWriter(w)
	if err := archive.WriteHeader(&tar.Header{Name: "big", Mode: 0o644, Size: size}); err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for i := range size >> 20 {
		copy(block, fmt.Sprintf("block %d", i))
		if _, err := io.MultiWriter(archive, sum).Write(block); err != nil {
			return err
		}
	}
	return archive.Close()
}
