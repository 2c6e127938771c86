// Command dial is what the tests' containers use to speak to a socket: it sends a
// line of HTTP, which engines would answer, and prints the first line that comes.
//
//	dial unix|tcp ADDRESS
//	dial echo PATH             listens there, and answers each line with itself
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// patience is how long an answer may take.
const patience = 10 * time.Second

func main() {
	if os.Args[1] == "echo" {
		fmt.Println(echo(os.Args[2]))
		os.Exit(1)
	}
	answer, err := ask(os.Args[1], os.Args[2])
	if err != nil {
		answer = err.Error()
	}
	fmt.Println(strings.TrimSpace(answer))
}

func echo(path string) error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "unix", path)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}()
	}
}

func ask(network, address string) (string, error) {
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(context.Background(), network, address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "GET /_ping HTTP/1.0\n\n"); err != nil {
		return "", io.EOF // closed already, which is what reading would have said
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil && strings.Contains(err.Error(), "reset by peer") {
		err = io.EOF
	}
	return answer, err
}
