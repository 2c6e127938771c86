package load

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

var streamBytes = flag.Int64("stream", 2<<20, "the most bytes of each of TestHalfCloses' streams and directions; 100 MB is 104857600")

// Streams of which both sides end their direction when they like arrive whole,
// a hundred at a time, out of a container and into one.
func TestHalfCloses(t *testing.T) {
	const streams = 100
	s := stage.Up(t)
	listener, err := s.Lab.Internet.Listen("tcp", lab.EmptyV4+farPort)
	if err != nil {
		t.Fatal(err)
	}
	var far sync.WaitGroup
	var received, failed int64
	var mu sync.Mutex // guards both
	for range streams {
		far.Go(func() {
			conn, err := listener.Accept()
			if err != nil {
				return // the listener is closed below
			}
			defer conn.Close()
			n, err := testimage.Exchange(conn.(*net.TCPConn), rand.Int64N(*streamBytes+1))
			mu.Lock()
			defer mu.Unlock()
			received += n
			if err != nil {
				failed++
				t.Errorf("far side: %v", err)
			}
		})
	}
	began := time.Now()
	got := s.Toolbox(t, nil, "exchange", lab.EmptyV4+farPort, "-count", fmt.Sprint(streams), "-bytes", fmt.Sprint(*streamBytes))
	_ = listener.Close()
	far.Wait()
	t.Logf("%d MB out and %d MB back in %s", received>>20, got.Bytes>>20, time.Since(began).Round(time.Millisecond))
	if got.Outcome != testimage.OK || got.Count != streams || got.Bytes == 0 || received == 0 || failed > 0 {
		t.Errorf("container: %+v; far side got %d bytes, %d streams failed", got, received, failed)
	}
}

// ours is the most that Portolan may hold of a stream whose receiver reads
// nothing: in the daemon's memory, and unacknowledged on the host. What a sender
// has pushed into its own kernel's buffers, the machine's included, is its own.
const ours = 1 << 20

// Far sides that never read stop their senders, and little of the streams is held.
func TestReceiverThatNeverReads(t *testing.T) {
	const streams = 20
	s := stage.Up(t)
	listener, err := s.Lab.Internet.Listen("tcp", lab.EmptyV4+farPort)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	status := s.Status(t)
	before := resident(t, status.Daemon.PID)
	s.Docker(t, "run", "-d", "--name", "sender", testimage.Name, "exchange", lab.EmptyV4+farPort, "-bytes", "1073741824", "-count", fmt.Sprint(streams))
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "sender") })
	var conns flows
	for range streams {
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	defer closeAll(conns)
	unread, unsent := -1, -1
	stage.Eventually(t, 4*promptly, "the senders have been stopped", func() bool {
		was := [2]int{unread, unsent}
		unread, unsent = queued(t, s, status.Helper.PID)
		time.Sleep(300 * time.Millisecond)
		return unread > 0 && was == [2]int{unread, unsent}
	})
	grown := max(0, resident(t, status.Daemon.PID)-before)
	t.Logf("for each of %d streams: %d KiB of memory, %d KiB sent and not acknowledged; %d KiB not read yet",
		streams, grown>>10/streams, unsent>>10/streams, unread>>10/streams)
	if held := (grown + unsent) / streams; held > ours {
		t.Errorf("%d bytes are held for each, want at most %d", held, ours)
	}
}

// queued is what waits in the two sockets of all flows to farPort: to be read in
// the router, and to be acknowledged on the host.
func queued(t *testing.T, s *stage.Stage, helper int) (unread, unsent int) {
	t.Helper()
	inRouter := fmt.Sprintf("--net=/proc/%d/ns/net", helper)
	router := s.Lab.Host.Run(t, "nsenter", inRouter, "ss", "-Htn", "state", "established", "sport", "=", farPort)
	host := s.Lab.Host.Run(t, "ss", "-Htn", "state", "established", "dport", "=", farPort)
	return column(t, router, 0), column(t, host, 1)
}

// column adds the numbers in one column of a table.
func column(t *testing.T, table string, at int) (sum int) {
	t.Helper()
	for line := range strings.Lines(table) {
		n, err := strconv.Atoi(strings.Fields(line)[at])
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}
