package router

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

// The hand-over is spoken on a stream socket: one line asks, one line answers,
// descriptors come as SCM_RIGHTS of unix(7) with the answer.
//
//	attach          -> "ok 5" with slow0 and the listeners, in listenerKinds' order
//	namespaces      -> "ok 2" with the router's network namespace and its owner, a user namespace
//	sockets KIND N  -> "ok N" with N unconnected transparent sockets, N <= maxBatch
//	connect         -> "ok 1" with the router's network namespace; the host is connected while this
//	                   connection lasts, or until the line "ended" comes: see connect_linux.go
//	admit           -> "ok 0" when the router's end of the host's veth is set up
//	disconnect      -> "ok 0" when nobody is connected any more
//	move V4 V6      -> "ok 0" when router and machine are on the link of these subnets
//	stop            -> "ok 0"; Serve returns
//
// Anything else is answered "error TEXT" and the connection goes on. The helper
// keeps no state about any other connection, so any number of daemons may come and go.
const (
	wordAttach     = "attach"
	wordNamespaces = "namespaces"
	wordSockets    = "sockets"
	wordMove       = "move"
	wordStop       = "stop"
	wordConnect    = "connect"
	wordAdmit      = "admit"
	wordDisconnect = "disconnect"
	wordEnded      = "ended"
	wordOK         = "ok"
	wordError      = "error"
)

// maxBatch stays below SCM_MAX_FD, 253 descriptors for one message.
const maxBatch = 128

// Serve hands descriptors to daemons until one says stop or ctx ends; both
// return nil. Only processes of the same user and root are served. ln is a
// stream socket, and closed when Serve returns.
func (n *Namespace) Serve(ctx context.Context, ln *net.UnixListener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel() // before the wait
	for {
		conn, err := ln.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if exhausted(err) { // to give up would end the machine
			pause(ctx, acceptPause)
			continue
		}
		if err != nil {
			return fmt.Errorf("accept daemon: %w", err)
		}
		conns.Go(func() {
			if n.serveConn(ctx, conn) {
				cancel()
			}
		})
	}
}

// serveConn answers one daemon's requests and reports whether it said stop.
func (n *Namespace) serveConn(ctx context.Context, conn *net.UnixConn) (stop bool) {
	defer conn.Close()
	defer func() { _ = n.release(conn) }() // what went wrong, the next who connects tries again
	defer context.AfterFunc(ctx, func() {
		_ = n.release(nil) // with the namespace it would go as well, later
		_ = conn.Close()
	})()
	refusal := checkPeer(conn)
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if refusal != nil { // told when it has asked: before, its request would only meet a broken pipe
			_ = answer(conn, nil, refusal)
			return false
		}
		words := strings.Fields(lines.Text())
		stop = len(words) == 1 && words[0] == wordStop
		fds, release, err := n.request(conn, words)
		sendErr := answer(conn, fds, err)
		release()
		if stop || sendErr != nil {
			return stop
		}
	}
	return false
}

// request carries out one request. release is called when the answer is sent.
func (n *Namespace) request(conn *net.UnixConn, words []string) (fds []int, release func(), err error) {
	nothing := func() {}
	switch {
	case len(words) == 1 && words[0] == wordStop:
		return nil, nothing, nil
	case len(words) == 1 && words[0] == wordAttach:
		return append([]int{n.tun}, n.listeners...), nothing, nil
	case len(words) == 1 && words[0] == wordNamespaces:
		fds, err = namespaceFDs()
		return fds, func() { closeAll(fds) }, err
	case len(words) == 1 && words[0] == wordConnect:
		if err = n.hold(conn); err == nil {
			fds, err = networkFD()
		}
		return fds, func() { closeAll(fds) }, err
	case len(words) == 1 && words[0] == wordAdmit:
		return nil, nothing, n.admit(conn)
	case len(words) == 1 && words[0] == wordDisconnect:
		return nil, nothing, n.release(nil)
	case len(words) == 3 && words[0] == wordMove:
		var link portolan.Link
		if link, err = parseLink(words[1:]); err == nil {
			err = n.move(link)
		}
		return nil, nothing, err
	case len(words) == 3 && words[0] == wordSockets:
		fds, err = openSockets(kind(words[1]), words[2])
		return fds, func() { closeAll(fds) }, err
	}
	return nil, nothing, fmt.Errorf("request %q: not known", words)
}

func openSockets(k kind, count string) ([]int, error) {
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 || n > maxBatch || !k.valid() {
		return nil, fmt.Errorf("request of %s sockets of kind %q: want 1 to %d of tcp4, tcp6, udp4, udp6", count, k, maxBatch)
	}
	fds := make([]int, 0, n)
	for range n {
		fd, err := openSocket(k)
		if err != nil {
			closeAll(fds)
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func answer(conn *net.UnixConn, fds []int, err error) error {
	if err != nil {
		text := strings.ReplaceAll(err.Error(), "\n", "; ")
		_, err := fmt.Fprintf(conn, "%s %s\n", wordError, text)
		return err
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err = conn.WriteMsgUnix(fmt.Appendf(nil, "%s %d\n", wordOK, len(fds)), oob, nil)
	return err
}

// checkPeer refuses other users.
func checkPeer(conn *net.UnixConn) error {
	uid, err := system.PeerUID(conn)
	if err != nil {
		return err
	}
	if uid != 0 && uid != os.Geteuid() {
		return fmt.Errorf("serve uid %d: %w", uid, os.ErrPermission)
	}
	return nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
