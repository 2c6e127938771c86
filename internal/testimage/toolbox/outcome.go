//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/portolan-net/portolan/internal/testimage"
)

// errMismatch is an answer which is not the expected one.
var errMismatch = errors.New("the answer is not what was sent")

// conclude sets the outcome that err stands for, unless the command set one.
func conclude(r *testimage.Result, err error) {
	if err != nil {
		r.Error = err.Error()
	}
	if r.Outcome == "" {
		r.Outcome = outcome(err)
	}
}

// outcome names what the kernel reported.
func outcome(err error) testimage.Outcome {
	if err == nil {
		return testimage.OK
	}
	for _, known := range []struct {
		err     error
		outcome testimage.Outcome
	}{
		{syscall.ECONNREFUSED, testimage.Refused},
		{syscall.EHOSTUNREACH, testimage.HostUnreachable},
		{syscall.ENETUNREACH, testimage.NetUnreachable},
		{syscall.ECONNRESET, testimage.Reset},
		{syscall.EPIPE, testimage.Reset},
		{syscall.EACCES, testimage.Prohibited},
		{syscall.EPERM, testimage.Prohibited},
		{syscall.EMSGSIZE, testimage.TooBig},
		{syscall.ETIMEDOUT, testimage.Timeout},
		{os.ErrDeadlineExceeded, testimage.Timeout},
		{context.DeadlineExceeded, testimage.Timeout},
		{io.EOF, testimage.Closed},
		{io.ErrUnexpectedEOF, testimage.Closed},
		{errMismatch, testimage.Mismatch},
	} {
		if errors.Is(err, known.err) {
			return known.outcome
		}
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return testimage.Timeout
	}
	return testimage.Failed
}
