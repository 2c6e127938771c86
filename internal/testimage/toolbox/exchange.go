//go:build linux

package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/testimage"
)

// exchangeAll opens streams at once, on each of which both sides send as much as
// they like and end when they have, and all of it must arrive.
func exchangeAll(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("exchange")
	count := flags.Int("count", 1, "streams at a time")
	most := flags.Int64("bytes", 1<<20, "the most that is sent on one")
	timeout := flags.Duration("timeout", 10*time.Minute, "for all of it")
	addr := parse(flags, args, 1, 1)[0]
	deadline := time.Now().Add(*timeout)
	var mu sync.Mutex // guards failed and r
	var failed error
	var running sync.WaitGroup
	for range *count {
		running.Go(func() {
			n, err := exchangeOnce(ctx, addr, deadline, rand.Int64N(*most+1))
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
			r.Bytes += n
			r.Count++
		})
	}
	running.Wait()
	return failed
}

func exchangeOnce(ctx context.Context, addr string, deadline time.Time, count int64) (int64, error) {
	conn, err := (&net.Dialer{Deadline: deadline}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(deadline)
	tcp, _ := conn.(*net.TCPConn)
	return testimage.Exchange(tcp, count)
}
