//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/portolan-net/portolan/internal/testimage"
)

// listenMany waits on TCP ports in a row, until SIGTERM, and answers on none.
func listenMany(ctx context.Context, args []string, _ *testimage.Result) (err error) {
	flags := newFlags("listen-many")
	first := flags.Int("first", 10000, "first port")
	count := flags.Int("count", 1000, "how many")
	parse(flags, args, 0, 0)
	var open []net.Listener
	defer func() {
		for _, l := range open {
			err = errors.Join(err, l.Close())
		}
	}()
	for i := range *count {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp4", fmt.Sprintf(":%d", *first+i))
		if err != nil {
			return err
		}
		open = append(open, l)
	}
	<-ctx.Done()
	return nil
}
