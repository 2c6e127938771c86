package datapath

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// Refusal is what the machine is shown when a flow can't be carried: the same
// as the host's kernel told the daemon.
type Refusal uint8

// The refusals. TCP shows Refused as RST, UDP as port unreachable; the others
// are ICMP destination unreachable codes of RFC 792, RFC 1122 section 3.2.2.1
// and RFC 4443 section 3.1.
const (
	Silent          Refusal = iota // nothing: the machine's own time-out ends it
	Refused                        // RST; ICMP port unreachable
	HostUnreachable                // code 1; ICMPv6 address unreachable
	NetUnreachable                 // code 0; ICMPv6 no route
	Prohibited                     // code 13; ICMPv6 administratively prohibited
)

// Classify turns the error of a dial or a send on the host into a refusal. An
// error it does not know is Refused: an answer ends sooner than silence.
func Classify(err error) Refusal {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return Refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EHOSTDOWN):
		return HostUnreachable
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.ENETDOWN),
		errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return NetUnreachable
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return Prohibited
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Silent
	}
	return Refused
}
