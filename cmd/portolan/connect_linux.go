package main

import (
	"context"
	"os"

	"github.com/portolan-net/portolan/internal/cli"
	"github.com/portolan-net/portolan/internal/connect"
)

// hostAccess is package connect's.
func hostAccess() cli.HostAccess {
	return cli.HostAccess{
		Connect:    connect.Connect,
		Disconnect: connect.Disconnect,
		Connector:  func(ctx context.Context) error { return connect.Run(ctx, os.Stdin, connect.Report()) },
		Shell:      connect.Shell,
		Enter:      connect.Enter,
	}
}
