//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/testimage"
)

// hold opens connections and echoes on each what comes, until the last of them
// has ended. It says "listening" when all stand, and how many ended in which way.
func hold(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("hold")
	count := flags.Int("count", 1, "connections")
	timeout := flags.Duration("timeout", 10*time.Second, "for each to stand")
	addr := parse(flags, args, 1, 1)[0]
	r.Ends = map[testimage.Outcome]int{}
	var mu sync.Mutex // guards r
	var held sync.WaitGroup
	for i := range *count {
		conn, err := (&net.Dialer{Timeout: *timeout}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("after %d connections: %w", i, err)
		}
		held.Go(func() {
			defer conn.Close()
			n, err := io.CopyBuffer(onlyWriter{conn}, onlyReader{conn}, make([]byte, 4096))
			if err == nil {
				err = io.EOF
			}
			mu.Lock()
			defer mu.Unlock()
			r.Bytes += n
			r.Ends[outcome(err)]++
		})
	}
	emit(testimage.Result{Command: "hold", Outcome: testimage.Listening, Remote: addr})
	ended := make(chan struct{})
	go func() { // ends with the connections, or with the process
		held.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return errors.New("asked to end while connections stand")
	}
}

// onlyWriter hides ReadFrom, which would splice with pipes for each connection.
type onlyWriter struct{ io.Writer }
