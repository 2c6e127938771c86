//go:build !unix

package settings

import (
	"errors"
	"io"
)

// readTrusted refuses: hosts are Linux today.
func readTrusted(string, uint32) ([]byte, error) {
	return nil, errors.New("whom a file belongs to can't be told on this system")
}

func readAll(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, maxSize)) }
