package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// transfer is what bulk prints.
type transfer struct {
	Bytes   uint64  `json:"bytes"` // that came
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu"` // the client's own seconds
}

func bulk(addr, duration, n, direction string) error {
	d, err := time.ParseDuration(duration)
	if err != nil {
		return err
	}
	flows, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	one := map[string]func(net.Conn, time.Duration) (uint64, error){"out": send, "back": fetch}[direction]
	if one == nil {
		return errUsage
	}
	conns := make([]net.Conn, flows)
	for i := range conns {
		if conns[i], err = dial(addr); err != nil {
			return err
		}
		defer conns[i].Close()
	}
	var group sync.WaitGroup
	bytes, errs := make([]uint64, flows), make([]error, flows)
	start := time.Now()
	for i, conn := range conns {
		group.Go(func() {
			_ = conn.SetDeadline(start.Add(d + patience)) // of a TCP connection: does not fail
			bytes[i], errs[i] = one(conn, d)
		})
	}
	group.Wait()
	got := transfer{Seconds: time.Since(start).Seconds(), CPU: ownSeconds()}
	for _, b := range bytes {
		got.Bytes += b
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("after %d bytes: %w", got.Bytes, err)
	}
	return json.NewEncoder(os.Stdout).Encode(got)
}

// send returns how many bytes the server received.
func send(conn net.Conn, d time.Duration) (uint64, error) {
	until := time.Now().Add(d)
	if _, err := conn.Write(request(sink, 0)); err != nil {
		return 0, err
	}
	if err := fill(conn, until); err != nil {
		return 0, err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	return number(conn)
}

func fetch(conn net.Conn, d time.Duration) (uint64, error) {
	if _, err := conn.Write(request(generate, uint64(d))); err != nil {
		return 0, err
	}
	total := drain(conn)
	if total == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return total, nil
}

func request(kind byte, number uint64) []byte {
	message := make([]byte, size)
	message[0] = kind
	binary.BigEndian.PutUint64(message[argument:], number)
	return message
}

// number reads an answer and returns the number in it.
func number(conn net.Conn) (uint64, error) {
	message := make([]byte, size)
	_, err := io.ReadFull(conn, message)
	return binary.BigEndian.Uint64(message[argument:]), err
}

func ownSeconds() float64 {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // fails for bad arguments only
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

// datagramResult is what datagrams prints.
type datagramResult struct {
	Sent      uint64  `json:"sent"`
	Received  uint64  `json:"received"`
	PerSecond float64 `json:"perSecond"` // received
	Lost      float64 `json:"lost"`      // percent of what was sent
}

// pace is how often a sender that has a rate sends what is due.
const pace = time.Millisecond

func datagrams(addr, duration, bytes, rate string) error {
	d, err := time.ParseDuration(duration)
	if err != nil {
		return err
	}
	length, err := strconv.Atoi(bytes)
	if err != nil {
		return err
	}
	bits, err := strconv.ParseFloat(rate, 64)
	if err != nil {
		return err
	}
	conn, err := net.Dial("udp", addr) //nolint:noctx // ends at once
	if err != nil {
		return err
	}
	defer conn.Close()
	session, message := rand.Uint64(), make([]byte, length)
	binary.BigEndian.PutUint64(message, session)
	sent, start := uint64(0), time.Now()
	for time.Since(start) < d {
		due := sent + 1
		if bits > 0 {
			due = uint64(time.Since(start).Seconds() * bits / 8 / float64(length))
		}
		for ; sent < due; sent++ {
			if _, err := conn.Write(message); err != nil && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOBUFS) {
				return err
			}
		}
		if bits > 0 {
			time.Sleep(pace)
		}
	}
	took := time.Since(start)
	time.Sleep(50 * time.Millisecond) // for those on their way
	received, err := ask64(addr, session)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(datagramResult{
		Sent: sent, Received: received, PerSecond: float64(received) / took.Seconds(),
		Lost: 100 * (1 - float64(received)/float64(sent)),
	})
}

// ask64 asks the server how many datagrams of a session came.
func ask64(addr string, session uint64) (uint64, error) {
	conn, err := dial(addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := conn.Write(request(count, session)); err != nil {
		return 0, err
	}
	return number(conn)
}
