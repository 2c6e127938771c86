package main

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// dialers is how many connections idle opens at a time.
const dialers = 8

// idlePatience is how long one of many may take: it waits for nobody but the gateway.
const idlePatience = 3 * time.Second

// glance is how long await waits for one answer. What was sent before the server
// stood may be lost, and is not sent again for a second.
const glance = 50 * time.Millisecond

// held is what idle prints when it holds what it can.
type held struct {
	Held  int    `json:"held"`
	Error string `json:"error"` // why there are not more
}

func idle(addr, n string) error {
	want, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	var (
		group sync.WaitGroup
		mutex sync.Mutex // guards conns and got
		conns []net.Conn
		got   held
	)
	for i := range dialers {
		group.Go(func() {
			for range (want + i) / dialers {
				conn, err := dialWithin(idlePatience, addr)
				if err == nil {
					_ = conn.SetDeadline(time.Now().Add(idlePatience)) // of a TCP connection: does not fail
					err = ask(conn, again)
				}
				mutex.Lock()
				if err != nil {
					got.Error = err.Error()
					mutex.Unlock()
					return
				}
				conns = append(conns, conn)
				mutex.Unlock()
			}
		})
	}
	group.Wait()
	got.Held = len(conns)
	if err := json.NewEncoder(os.Stdout).Encode(got); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	for _, conn := range conns {
		_ = conn.Close() // nothing was left to send
	}
	return err
}

// await asks until an answer comes, a minute at most.
func await(addr string) error {
	var err error
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(time.Millisecond) {
		var conn net.Conn
		if conn, err = dialWithin(glance, addr); err != nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(glance)) // of a TCP connection: does not fail
		err = ask(conn, again)
		_ = conn.Close() // it has been of use
		if err == nil {
			return nil
		}
	}
	return err
}

// lookups asks a name server again and again; an answer that does not come
// within a second counts as one that took a second.
func lookups(addr, name string, until time.Time) ([]time.Duration, error) {
	conn, err := net.Dial("udp", addr) //nolint:noctx // ends at once
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var times []time.Duration
	buf := make([]byte, 1500)
	for id := uint16(1); ; id++ {
		start := time.Now()
		if start.After(until) {
			return times, nil
		}
		query, err := question(id, name)
		if err != nil {
			return times, err
		}
		if _, err := conn.Write(query); err != nil {
			return times, err
		}
		_ = conn.SetReadDeadline(start.Add(time.Second)) // of a UDP socket: does not fail
		n, err := conn.Read(buf)
		for err == nil && (n < 2 || buf[0] != query[0] || buf[1] != query[1]) {
			n, err = conn.Read(buf)
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return times, err
		}
		if err == nil && buf[3]&0xf != 0 {
			return times, errors.New("the name server reports an error")
		}
		times = append(times, time.Since(start))
	}
}

func question(id uint16, name string) ([]byte, error) {
	parsed, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, err
	}
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: parsed, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	return message.Pack()
}
