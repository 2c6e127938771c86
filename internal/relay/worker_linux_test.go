package relay

import (
	"context"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
)

// A socket that the kernel does not let a worker watch ends its flow, and whoever
// waits for the flow is told.
func TestTCPThatCannotBeWatchedEnds(t *testing.T) {
	noLeaks(t)
	for i, name := range []string{"first", "second"} {
		t.Run(name, func(t *testing.T) {
			left, a := pair(t)
			b, right := pair(t)
			defer left.Close()
			defer right.Close()
			ended := make(chan Stats, 2)
			f := &flow{worker: assign(), done: func(s Stats) { ended <- s }, stop: func() bool { return true }}
			conns := [2]datapath.Conn{a, b}
			if !f.take(&conns[0], &conns[1]) {
				t.Fatal("the sockets were not taken")
			}
			// Watched already, it is refused (EEXIST), as it is when the user's watches are used up.
			if err := f.worker.loop.Watch(-1, 0, f.ends[i].fd, unix.EPOLLET); err != nil {
				t.Fatal(err)
			}
			f.worker.add(f)
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				t.Fatal("the flow has not ended after 5 s")
			}
			wantReset(t, left)
			wantReset(t, right)
			if len(ended) != 0 {
				t.Error("the end was told twice")
			}
		})
	}
}

// Splice stops before urgent data, and with a FIN behind it says what it says at
// the end of a stream. What follows must arrive all the same.
func TestTCPUrgentDataBehindSplice(t *testing.T) {
	noLeaks(t)
	sender, receiver := pair(t)
	defer sender.Close()
	raw, err := sender.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) }); err != nil {
		t.Fatal(err)
	}
	if _, werr := sender.Write([]byte("behind")); err != nil || werr != nil {
		t.Fatal(err, werr)
	}
	if err := sender.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	src, err := takeSocket(receiver)
	if err != nil {
		t.Fatal(err)
	}
	defer src.owner.Close()
	eventually(t, "the FIN is there", func() bool {
		info, err := unix.GetsockoptTCPInfo(src.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err == nil && info.State == 8 // TCP_CLOSE_WAIT
	})
	var got []byte
	for h := (half{bulk: true}); ; h.bulk = true { // no event has told of it yet
		if err := h.fill(&src, &end{}, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if h.chunk.n == 0 {
			break
		}
		data := h.chunk.data
		if h.chunk.pipe != nil {
			data = make([]byte, h.chunk.n)
			if _, err := read(h.chunk.pipe.r, data); err != nil {
				t.Fatal(err)
			}
			h.chunk.n = 0
		}
		got = append(got, data...)
		h.chunk.release()
	}
	if string(got) != "!behind" {
		t.Errorf("%q arrived, want %q", got, "!behind")
	}
}

// A context that has ended, or ends while the flow begins, ends the flow.
func TestTCPContextEndsWhileItBegins(t *testing.T) {
	noLeaks(t)
	for n := range 200 {
		left, a := pair(t)
		b, right := pair(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan Stats, 2)
		if n%2 == 0 {
			cancel()
		} else {
			go cancel()
		}
		Start(ctx, a, b, func(s Stats) { ended <- s })
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Fatal("the flow has not ended after 5 s")
		}
		wantReset(t, left)
		if _, err := io.Copy(io.Discard, right); err == nil {
			t.Fatal("the far side sees no reset")
		}
		_, _ = left.Close(), right.Close()
	}
}

// A server on a unix socket that answers and closes, without having read all of
// the request, is heard all the same.
func TestUnixAnswerBeforeItsError(t *testing.T) {
	noLeaks(t)
	sockets := listenOn(t, "unix")
	for range 50 {
		client, a, err := sockets.pair()
		if err != nil {
			t.Fatal(err)
		}
		b, server, err := sockets.pair()
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			TCP(t.Context(), a, b)
		}()
		if _, err := client.Write([]byte("a request that nobody reads to its end")); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(make([]byte, 9)); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		_ = server.Close()
		_ = client.SetReadDeadline(time.Now().Add(5 * time.Second))
		if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
			t.Fatalf("read %q, %v", got, err)
		}
		_ = client.Close()
		<-ended
	}
}
