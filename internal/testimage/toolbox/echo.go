//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/portolan-net/portolan/internal/testimage"
)

// echoTCP serves connections until SIGTERM and says how each of them ended.
func echoTCP(ctx context.Context, args []string, _ *testimage.Result) error {
	flags := newFlags("echo-tcp")
	addr := flags.String("addr", ":7", "listen address")
	mode := flags.String("mode", "echo", "echo; after-eof: only when the client has sent FIN; rst: reset after the first bytes; "+
		"whoami: the client's address, then FIN; silent: read and say nothing")
	parse(flags, args, 0, 0)
	serve, ok := tcpModes[*mode]
	if !ok {
		return fmt.Errorf("mode %q: unknown", *mode)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *addr)
	if err != nil {
		return err
	}
	announce("echo-tcp", listener.Addr())
	end := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer end()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() { // ends with its connection, or with the process
			tcp, _ := conn.(*net.TCPConn)
			defer tcp.Close()
			start := time.Now()
			n, err := serve(tcp)
			r := testimage.Result{
				Command: "echo-tcp", Bytes: n, Local: tcp.LocalAddr().String(), Remote: tcp.RemoteAddr().String(),
				Elapsed: time.Since(start).Milliseconds(),
			}
			if err == nil {
				r.Outcome = testimage.Closed
			}
			conclude(&r, err)
			emit(r)
		}()
	}
}

// tcpModes are what echo-tcp does with a connection; each returns how many bytes came.
var tcpModes = map[string]func(*net.TCPConn) (int64, error){
	"echo": func(conn *net.TCPConn) (int64, error) {
		n, err := io.Copy(conn, conn)
		return n, errors.Join(err, conn.CloseWrite())
	},
	"after-eof": func(conn *net.TCPConn) (int64, error) {
		data, err := io.ReadAll(conn)
		if err != nil {
			return int64(len(data)), err
		}
		_, err = conn.Write(data)
		return int64(len(data)), errors.Join(err, conn.CloseWrite())
	},
	"rst": func(conn *net.TCPConn) (int64, error) {
		n, err := conn.Read(make([]byte, 4096))
		return int64(n), errors.Join(err, conn.SetLinger(0))
	},
	"whoami": func(conn *net.TCPConn) (int64, error) {
		_, err := fmt.Fprintln(conn, conn.RemoteAddr())
		if err != nil {
			return 0, err
		}
		err = conn.CloseWrite()
		n, readErr := io.Copy(io.Discard, conn)
		return n, errors.Join(err, readErr)
	},
	"silent": func(conn *net.TCPConn) (int64, error) { return io.Copy(io.Discard, conn) },
}

// echoUDP answers datagrams until SIGTERM and names each new client once.
func echoUDP(ctx context.Context, args []string, _ *testimage.Result) error {
	flags := newFlags("echo-udp")
	addr := flags.String("addr", ":7", "listen address")
	mode := flags.String("mode", "echo", "echo; train: the same, merged and as merged; whoami: the client's address; silent: say nothing")
	parse(flags, args, 0, 0)
	if *mode != "echo" && *mode != "train" && *mode != "whoami" && *mode != "silent" {
		return fmt.Errorf("mode %q: unknown", *mode)
	}
	conn, err := listenUDP(ctx, *addr)
	if err != nil {
		return err
	}
	if *mode == "train" {
		if err := mergeDatagrams(conn); err != nil {
			return err
		}
	}
	announce("echo-udp", conn.LocalAddr())
	end := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer end()

	known := map[netip.AddrPort]bool{}
	buf, oob := make([]byte, 1<<16), make([]byte, 256)
	for {
		n, oobn, _, client, err := conn.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		if !known[client] {
			known[client] = true
			emit(testimage.Result{Command: "echo-udp", Outcome: testimage.OK, Remote: unmapped(client).String(), Bytes: int64(n)})
		}
		answer := buf[:n]
		switch *mode {
		case "silent":
			continue
		case "whoami":
			answer = fmt.Appendln(nil, unmapped(client))
		}
		control := append(replySource(oob[:oobn]), segmentControl(mergedSize(oob[:oobn]))...)
		_, _, _ = conn.WriteMsgUDPAddrPort(answer, control, client)
	}
}

// unmapped turns ::ffff:192.0.2.1, which a dual-stack socket reports, into 192.0.2.1.
func unmapped(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}
