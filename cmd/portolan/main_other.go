//go:build !linux

package main

import "github.com/portolan-net/portolan/internal/cli"

// platform is empty: hosts are Linux today, and the commands say so.
func platform() cli.Platform { return cli.Platform{} }
