// Command probe measures small requests over TCP, in the benchmarks' containers
// and namespaces. It needs no libraries:
//
//	probe serve ADDR                  answers until it is killed
//	probe request ADDR DURATION       round trips on one connection
//	probe connect ADDR DURATION N     connect, request, answer, close; N at a time
//	probe nothing
//
// A measurement is one line of JSON, a result.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// size of a request and of its answer, in bytes.
const size = 64

// The first byte of a request says whether the server closes after its answer.
// It does, not the client, so that TIME_WAIT never uses up the client's ports.
const (
	again = 'a'
	last  = 'l'
)

// result is what a measurement prints. Times are in microseconds.
type result struct {
	PerSecond float64 `json:"perSecond"`
	P50       float64 `json:"p50"`
	P99       float64 `json:"p99"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "nothing":
		return nil
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) == 3 && args[0] == "request":
		return measure(args[2], "1", func(until time.Time) ([]time.Duration, error) { return requests(args[1], until) })
	case len(args) == 4 && args[0] == "connect":
		return measure(args[2], args[3], func(until time.Time) ([]time.Duration, error) { return connects(args[1], until) })
	}
	return errors.New("unknown arguments")
}

func serve(addr string) error {
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go answer(conn)
	}
}

func answer(conn net.Conn) {
	defer conn.Close()
	message := make([]byte, size)
	for {
		if _, err := io.ReadFull(conn, message); err != nil {
			return
		}
		if _, err := conn.Write(message); err != nil || message[0] == last {
			return
		}
	}
}

// measure runs n workers for a while and prints what they saw together.
func measure(duration, n string, worker func(until time.Time) ([]time.Duration, error)) error {
	d, err := time.ParseDuration(duration)
	if err != nil {
		return err
	}
	workers, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	times := make([][]time.Duration, workers)
	errs := make([]error, workers)
	start := time.Now()
	for i := range workers {
		group.Go(func() { times[i], errs[i] = worker(start.Add(d)) })
	}
	group.Wait()
	took := time.Since(start)
	all := slices.Concat(times...)
	if err := errors.Join(errs...); err != nil || len(all) == 0 {
		return fmt.Errorf("after %d requests: %w", len(all), err)
	}
	slices.Sort(all)
	at := func(share float64) float64 {
		return float64(all[int(share*float64(len(all)-1))]) / float64(time.Microsecond)
	}
	return json.NewEncoder(os.Stdout).Encode(result{
		PerSecond: float64(len(all)) / took.Seconds(), P50: at(0.5), P99: at(0.99),
	})
}

func requests(addr string, until time.Time) ([]time.Duration, error) {
	conn, err := dial(addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var times []time.Duration
	for start := time.Now(); start.Before(until); {
		if err := ask(conn, again); err != nil {
			return times, err
		}
		now := time.Now()
		times = append(times, now.Sub(start))
		start = now
	}
	return times, nil
}

func connects(addr string, until time.Time) ([]time.Duration, error) {
	var times []time.Duration
	for start := time.Now(); start.Before(until); {
		if err := connect(addr); err != nil {
			return times, err
		}
		now := time.Now()
		times = append(times, now.Sub(start))
		start = now
	}
	return times, nil
}

func connect(addr string) error {
	conn, err := dial(addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := ask(conn, last); err != nil {
		return err
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the end: %d bytes, %v", n, err)
	}
	return nil
}

func dial(addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(context.Background(), "tcp", addr)
}

func ask(conn net.Conn, kind byte) error {
	message := make([]byte, size)
	message[0] = kind
	if _, err := conn.Write(message); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, message)
	return err
}
