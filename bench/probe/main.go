// Command probe is client and server of the benchmarks, in containers and
// namespaces. It needs no libraries:
//
//	probe serve ADDR                          TCP and UDP, until it is killed
//	probe request ADDR DURATION               round trips on one connection
//	probe connect ADDR DURATION N             connect, request, answer, close; N at a time
//	probe bulk ADDR DURATION N out|back       N connections at once, as fast as they go
//	probe datagrams ADDR DURATION SIZE RATE   SIZE bytes each, RATE bits a second, 0 for as many as can be sent
//	probe dns ADDR DURATION N NAME            asks for NAME's address, N at a time
//	probe idle ADDR N                         opens N connections and holds them until standard input ends
//	probe proxy ADDR                          a proxy, which knows CONNECT
//	probe await ADDR                          until the server answers
//	probe nothing
//
// A measurement is one line of JSON. Where a client is to ask a proxy for a tunnel,
// ADDR is PROXY/ADDR.
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
	"strings"
	"sync"
	"time"
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
	if len(args) == 0 {
		return errUsage
	}
	want := map[string]int{"nothing": 1, "serve": 2, "proxy": 2, "await": 2, "request": 3, "idle": 3, "connect": 4, "bulk": 5, "datagrams": 5, "dns": 5}
	if len(args) != want[args[0]] {
		return errUsage
	}
	switch args[0] {
	case "serve":
		return serve(args[1])
	case "proxy":
		return proxy(args[1])
	case "request":
		return measure(args[2], "1", func(until time.Time) ([]time.Duration, error) { return requests(args[1], until) })
	case "connect":
		return measure(args[2], args[3], func(until time.Time) ([]time.Duration, error) { return connects(args[1], until) })
	case "dns":
		return measure(args[2], args[3], func(until time.Time) ([]time.Duration, error) { return lookups(args[1], args[4], until) })
	case "bulk":
		return bulk(args[1], args[2], args[3], args[4])
	case "datagrams":
		return datagrams(args[1], args[2], args[3], args[4])
	case "idle":
		return idle(args[1], args[2])
	case "await":
		return await(args[1])
	}
	return nil // nothing
}

var errUsage = errors.New("unknown arguments")

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
	if err := errors.Join(errs...); err != nil {
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
	for start := time.Now(); ; {
		if err := ask(conn, again); err != nil {
			return times, err
		}
		now := time.Now()
		times = append(times, now.Sub(start))
		if start = now; start.After(until) {
			return times, nil
		}
	}
}

func connects(addr string, until time.Time) ([]time.Duration, error) {
	var times []time.Duration
	for start := time.Now(); ; {
		if err := connect(addr); err != nil {
			return times, err
		}
		now := time.Now()
		times = append(times, now.Sub(start))
		if start = now; start.After(until) {
			return times, nil
		}
	}
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
	if proxy, addr, ok := strings.Cut(addr, "/"); ok {
		return dialThrough(proxy, addr)
	}
	return dialWithin(patience, addr)
}

func dialWithin(limit time.Duration, addr string) (net.Conn, error) {
	return (&net.Dialer{Timeout: limit}).DialContext(context.Background(), "tcp", addr)
}

// patience is how long an answer may take.
const patience = 10 * time.Second

func ask(conn net.Conn, kind byte) error {
	message := make([]byte, size)
	message[0] = kind
	if _, err := conn.Write(message); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, message)
	return err
}
