package scarce

import (
	"errors"
	"syscall"
)

// Exhausted reports that a socket could not be made, bound or connected because
// descriptors, memory or ports have run out, which passes.
func Exhausted(err error) bool {
	for _, short := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.EADDRINUSE,    // no port to bind: udp(7), ip(7)
		syscall.EADDRNOTAVAIL, // no port to connect from: connect(2)
	} {
		if errors.Is(err, short) {
			return true
		}
	}
	return false
}
