package forward

import (
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/poll"
	"github.com/portolan-net/portolan/internal/socket"
)

// acceptor takes the connections of a listener on the thread of a loop, which
// dials their destinations as well. All but the first three are that thread's own.
type acceptor struct {
	*TCP
	take  func(datapath.Conn)
	ended chan error // has room for one
	loop  *poll.Loop
	id    int32
	fd    int // -1 once ended
	pause time.Duration
}

// accept takes connections, *socket.TCP, until Close. It takes the listener out of
// Go's poller, which would wake for each of them as well.
func (t *TCP) accept(take func(datapath.Conn)) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		a, err := t.open(take)
		switch {
		case err == nil:
			return <-a.ended
		case errors.Is(err, net.ErrClosed):
			return nil
		case !exhausted(err):
			return err
		}
		t.tellPause(pause, err)
		time.Sleep(pause)
	}
}

func (t *TCP) tellPause(pause time.Duration, short error) {
	if pause == firstPause {
		t.Log.Warn("accept pauses", "listener", t.Listener.Addr(), "error", short)
	}
}

func (t *TCP) open(take func(datapath.Conn)) (*acceptor, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	loop := poll.Next()
	if loop == nil {
		return nil, unix.EMFILE
	}
	fd, err := socket.Duplicate(t.Listener)
	if err != nil {
		return nil, err
	}
	_ = t.Listener.Close() // it goes on listening
	socket.TuneListener(fd)
	a := &acceptor{TCP: t, take: take, ended: make(chan error, 1), loop: loop, fd: fd, pause: firstPause}
	loop.Call(func() {
		a.id = loop.Add(a)
		if err := a.watch(); err != nil {
			a.end(err)
		}
	})
	t.stop = func() { loop.Call(func() { a.end(nil) }) }
	return a, nil
}

func (a *acceptor) watch() error { return a.loop.Watch(a.id, 0, a.fd, unix.EPOLLIN) }

// end frees the port.
func (a *acceptor) end(err error) {
	if a.fd < 0 {
		return
	}
	a.loop.Unwatch(a.fd) // somebody else may have the socket, too
	a.loop.Remove(a.id)
	_ = unix.Close(a.fd)
	a.fd = -1
	a.ended <- err
}

// Ready implements poll.Watcher. One at a time: asking for one that is not there
// costs as much.
func (a *acceptor) Ready(int32, uint32) {
	client, err := socket.Accept(a.fd)
	switch {
	case err == nil:
		a.pause = firstPause
		if from := client.Remote().Addr(); from.IsLoopback() || from == client.Local().Addr() {
			_ = client.Control(socket.Unpace) // fails on a closed connection only
		}
		a.take(client)
	case errors.Is(err, unix.EAGAIN):
	case exhausted(err):
		a.wait(err)
	default:
		a.end(err)
	}
}

// wait pauses until others have given back what is short.
func (a *acceptor) wait(short error) {
	a.tellPause(a.pause, short)
	a.loop.Unwatch(a.fd)
	a.loop.After(a.pause, func() {
		if a.fd < 0 {
			return
		}
		if err := a.watch(); err != nil {
			a.end(err)
		}
	})
	a.pause = min(2*a.pause, lastPause)
}
