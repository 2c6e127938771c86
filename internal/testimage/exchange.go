package testimage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
)

// Exchange sends count bytes and their digest on conn, ends that direction, and
// at the same time receives what the other side sends in the same way, until its
// end. The other side calls it, too, with a count of its own choice. It returns
// how many bytes came; the error says whether they came whole. conn is not closed.
func Exchange(conn *net.TCPConn, count int64) (int64, error) {
	sent := make(chan error, 1)
	go func() { sent <- sendSigned(conn, count) }()
	n, err := receiveSigned(conn)
	if err != nil {
		_ = conn.Close() // or the sender would wait
	}
	return n, errors.Join(err, <-sent)
}

func sendSigned(conn *net.TCPConn, count int64) error {
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(conn, sum), Stream(), count); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if _, err := conn.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("send digest: %w", err)
	}
	return conn.CloseWrite()
}

func receiveSigned(conn io.Reader) (int64, error) {
	sum := sha256.New()
	var tail []byte // what may be the digest
	var total int64
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		tail = append(tail, buf[:n]...)
		if body := len(tail) - sha256.Size; body > 0 {
			sum.Write(tail[:body])
			total += int64(body)
			tail = append(tail[:0], tail[body:]...)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return total, fmt.Errorf("receive: %w", err)
		}
	}
	if !bytes.Equal(tail, sum.Sum(nil)) {
		return total, fmt.Errorf("receive: the digest of %d bytes is wrong", total)
	}
	return total, nil
}
