package main

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// size of a request and of its answer, in bytes.
const size = 64

// Each connection begins with a request, whose first byte says what it is for.
const (
	again    = 'a' // answer, and wait for the next one
	last     = 'l' // answer and close. The server does, so that TIME_WAIT never uses up the client's ports
	sink     = 's' // read what comes until its end, then say how many bytes came
	generate = 'g' // send for the time that argument says, then close
	count    = 'c' // answer with the number of datagrams of the session argument
)

// argument is where a request has a number, in big endian.
const argument = 8

// chunk is how much bulk transfers read and write at a time.
const chunk = 128 << 10

// sessions counts the datagrams that came, for each client's random number.
type sessions struct{ of sync.Map }

func (s *sessions) counter(session uint64) *atomic.Uint64 {
	counter, ok := s.of.Load(session)
	if !ok {
		counter, _ = s.of.LoadOrStore(session, new(atomic.Uint64))
	}
	return counter.(*atomic.Uint64)
}

// receiveBuffer is what a program asks for that expects a Gbit/s of datagrams: the
// usual 208 KiB are full after a millisecond of it. The kernel may give less.
const receiveBuffer = 4 << 20

func serve(addr string) error {
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	pc, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		return err
	}
	if err := pc.(*net.UDPConn).SetReadBuffer(receiveBuffer); err != nil {
		return err
	}
	seen := new(sessions)
	go receive(pc.(*net.UDPConn), seen)
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go answer(conn, seen)
	}
}

func receive(pc *net.UDPConn, seen *sessions) {
	buf := make([]byte, 64<<10)
	for {
		n, _, err := pc.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if n >= 8 {
			seen.counter(binary.BigEndian.Uint64(buf)).Add(1)
		}
	}
}

func answer(conn net.Conn, seen *sessions) {
	defer conn.Close()
	message := make([]byte, size)
	for {
		if _, err := io.ReadFull(conn, message); err != nil {
			return
		}
		number := message[argument : argument+8]
		value := binary.BigEndian.Uint64(number)
		switch message[0] {
		case sink:
			binary.BigEndian.PutUint64(number, drain(conn))
		case generate:
			_ = fill(conn, time.Now().Add(time.Duration(value))) // the client sees that it ends early
			return
		case count:
			binary.BigEndian.PutUint64(number, seen.counter(value).Load())
		}
		if _, err := conn.Write(message); err != nil || message[0] == last {
			return
		}
	}
}

// drain reads until the end and returns how many bytes came.
func drain(conn net.Conn) (total uint64) {
	for buf := make([]byte, chunk); ; {
		n, err := conn.Read(buf)
		total += uint64(n)
		if err != nil {
			return total
		}
	}
}

// fill writes until a time.
func fill(conn net.Conn, until time.Time) error {
	buf := make([]byte, chunk)
	for time.Now().Before(until) {
		if _, err := conn.Write(buf); err != nil {
			return err
		}
	}
	return nil
}
