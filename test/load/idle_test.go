package load

import (
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

var idleFlows = flag.Int("idle", 3000, "flows of TestIdleFlows; each needs two descriptors of the daemon")

const (
	// An idle flow shall cost 8 KB of the daemon's memory; what the test allows on
	// top is for the collector, which lets the heap grow before it works.
	idleBytes = 8 << 10
	idleSlack = 16 << 20
	idleFDs   = 2
	// kept is what stays for the next flows: pipes, sockets of the router.
	kept = 80
)

// Thousands of idle flows cost the daemon two descriptors and little memory
// each, stay, and leave nothing behind.
func TestIdleFlows(t *testing.T) {
	s := stage.Up(t)
	daemon := s.Status(t).Daemon.PID
	limits := field(t, daemon, "limits", "Max open files")
	if limits[0] != limits[1] {
		t.Errorf("the daemon's soft limit of descriptors is %s, its hard limit %s", limits[0], limits[1])
	}
	listener, err := s.Lab.Internet.Listen("tcp", lab.EmptyV4+farPort)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	memory, files := resident(t, daemon), descriptors(t, daemon)

	// Two networks: one alone gets two thirds of what the daemon can have.
	s.Docker(t, "network", "create", "other")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "other") })
	var standing flows
	for _, network := range []string{"bridge", "other"} {
		standing = append(standing, idle(t, s, listener, network, *idleFlows/2)...)
	}
	grown := resident(t, daemon) - memory
	more := descriptors(t, daemon) - files
	n := len(standing)
	t.Logf("%d idle flows: %.1f KiB and %.2f descriptors each; the daemon has %d MiB (%d before)",
		n, float64(grown)/1024/float64(n), float64(more)/float64(n), (memory+grown)>>20, memory>>20)
	if grown > n*idleBytes+idleSlack {
		t.Errorf("%d bytes for %d flows, want at most %d each", grown, n, idleBytes)
	}
	if more > n*idleFDs+kept {
		t.Errorf("%d descriptors for %d flows, want %d each", more, n, idleFDs)
	}
	standing[:10].exchange(t)
	standing[n-10:].exchange(t)

	closeAll(standing)
	stage.Eventually(t, 5*promptly, "descriptors are given back", func() bool { return descriptors(t, daemon) <= files+kept })
	for _, network := range []string{"bridge", "other"} {
		s.Docker(t, "rm", "-f", "idle-"+network)
	}
}

// idle makes a container hold connections to listener.
func idle(t *testing.T, s *stage.Stage, listener net.Listener, network string, count int) (f flows) {
	t.Helper()
	s.Docker(t, "run", "-d", "--name", "idle-"+network, "--network", network, "--ulimit", "nofile=20000:20000",
		testimage.Name, "hold", lab.EmptyV4+farPort, "-count", strconv.Itoa(count))
	for range count {
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		f = append(f, conn)
	}
	stage.Eventually(t, promptly, "the container has them all", func() bool {
		out, _ := s.TryDocker(t, "logs", "idle-"+network)
		return strings.Contains(out, `"listening"`)
	})
	return f
}

func closeAll(f flows) {
	var closing sync.WaitGroup
	defer closing.Wait()
	for _, conn := range f {
		closing.Go(func() { _ = conn.Close() })
	}
}

// field is what follows a name in /proc/PID/FILE.
func field(t *testing.T, pid int, file, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, name); found {
			return strings.Fields(strings.TrimPrefix(rest, ":"))
		}
	}
	t.Fatalf("/proc/%d/%s has no %s", pid, file, name)
	return nil
}

// resident is the daemon's memory in bytes, when it has come to rest.
func resident(t *testing.T, pid int) int {
	t.Helper()
	time.Sleep(time.Second)
	var kib int
	if _, err := fmt.Sscan(field(t, pid, "status", "VmRSS")[0], &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
