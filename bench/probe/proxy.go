package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
)

// proxy is a proxy that knows CONNECT only, and does it as fast as can be: the
// kernel moves the bytes.
func proxy(addr string) error {
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go tunnel(conn.(*net.TCPConn))
	}
}

func tunnel(near *net.TCPConn) {
	defer near.Close()
	request, err := http.ReadRequest(bufio.NewReader(near)) // the client waits for the answer
	if err != nil || request.Method != http.MethodConnect {
		return
	}
	conn, err := dial(request.Host)
	if err != nil {
		return
	}
	far := conn.(*net.TCPConn)
	defer far.Close()
	if _, err := io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	back := make(chan struct{})
	go func() {
		defer close(back)
		carry(near, far)
	}()
	carry(far, near)
	<-back
}

// carry moves what one side says until its end. Errors end the tunnel as an end
// does: the client measures what has come.
func carry(to, from *net.TCPConn) {
	_, _ = io.Copy(to, from)
	_ = to.CloseWrite()
}

// dialThrough asks a proxy for a tunnel.
func dialThrough(proxy, addr string) (net.Conn, error) {
	conn, err := dial(proxy)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", addr, addr); err != nil {
		return nil, err
	}
	// The server says nothing unasked, so nothing of it is read here.
	answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect}) //nolint:bodyclose // a tunnel has no body
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("CONNECT %s: %s", addr, answer.Status)
	}
	return conn, nil
}
