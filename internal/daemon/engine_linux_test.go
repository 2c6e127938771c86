package daemon

import (
	"context"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/enginesocket"
)

// warned tells of each record.
type warned struct {
	slog.Handler
	records chan struct{}
}

func (h warned) Enabled(context.Context, slog.Level) bool { return true }

func (h warned) Handle(context.Context, slog.Record) error {
	select {
	case h.records <- struct{}{}:
	default:
	}
	return nil
}

// Flows may use up the descriptors: a docker command that comes then waits, and
// ends nothing.
func TestServeClientsOutlivesLackOfDescriptors(t *testing.T) {
	dir := t.TempDir()
	listen := func(name string) *net.UnixListener {
		t.Helper()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	engine, users := listen("e"), listen("u")
	defer engine.Close()
	ctx, stop := context.WithCancel(t.Context())
	ended, paused := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		log := slog.New(warned{slog.DiscardHandler, paused})
		clients := enginesocket.New(enginesocket.Config{Engine: engine.Addr().String(), Log: log})
		ended <- serveClients(ctx, users, clients.Serve, log)
	}()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	lowest, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(lowest)
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	restore := func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was) }
	defer restore()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(lowest), Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: users.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-paused:
	case err := <-ended:
		t.Fatalf("without descriptors it ends: %v", err)
	case <-time.After(5 * time.Second):
		t.Fatal("it does not notice that no descriptor is free")
	}
	restore()
	go func() {
		if conn, err := engine.Accept(); err == nil {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	const request = "GET / HTTP/1.1\r\n\r\n"
	buf := make([]byte, len(request))
	_, err = unix.Write(fd, []byte(request))
	if err == nil {
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
		_, err = unix.Read(fd, buf)
	}
	if err != nil || string(buf) != request {
		t.Errorf("after the lack of descriptors: %q, %v", buf, err)
	}
	_ = unix.Close(fd)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
