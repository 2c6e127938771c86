// Package datapath is the seam between what carries the machine's packets and
// what decides about them. An implementation (package router on Linux) delivers
// every new flow held at its start; a Handler (package egress) connects it,
// serves it, or returns the error that the machine is then shown. In the other
// direction package publish opens connections into the machine.
//
// The package holds interfaces and the table of refusals only; every package on
// the host's side may import it.
package datapath

import (
	"context"
	"net"
	"net/netip"

	"github.com/portolan-net/portolan/internal/portolan"
)

// Conn is an established TCP connection of the machine's side. Where it is a
// *net.TCPConn, a relay may splice it.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// Reset closes conn with an RST where its kind can send one.
func Reset(conn Conn) {
	if c, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = c.SetLinger(0) // fails only on a socket that is gone already
	}
	_ = conn.Close() // nobody is left to tell
}

// Endpoint is the far side of a TCP flow that a Handler accepted.
type Endpoint interface {
	// Serve carries the flow until it has ended in both directions and closes
	// conn and the endpoint. It is called once, and Close is not called then.
	Serve(ctx context.Context, conn Conn)
	// Close gives the endpoint up: the machine never finished its handshake.
	Close() error
}

// Starter is an Endpoint that serves without a goroutine that waits.
type Starter interface {
	// Start is Serve that does not wait: done is called at the end, from another
	// goroutine, and must not hold that up.
	Start(ctx context.Context, conn Conn, done func())
}

// Handler decides about what the machine sends. Its methods are called from
// several goroutines.
type Handler interface {
	// OpenTCP decides about a flow whose SYN is held, and blocks until the far
	// side stands. On an error the machine is shown what Classify makes of it.
	// ctx ends when the machine has given the flow up.
	OpenTCP(ctx context.Context, flow portolan.Flow) (Endpoint, error)
	// HandleUDP takes datagrams of one flow, at least one, in their order. It must
	// not block and not keep payloads.
	HandleUDP(flow portolan.Flow, payloads ...[]byte)
	// HandleEcho takes one ICMP or ICMPv6 echo request. It must not block and
	// not keep payload. The flow's ports are the identifier.
	HandleEcho(flow portolan.Flow, seq uint16, payload []byte)
}

// Opener is a Handler that opens without a goroutine that waits.
type Opener interface {
	// StartTCP is OpenTCP that does not wait: done is called once with what OpenTCP
	// returns, before StartTCP returns or later from another goroutine.
	StartTCP(ctx context.Context, flow portolan.Flow, done func(Endpoint, error))
}

// Machine is what a datapath offers to the host's side: the way into the
// machine, and the way back for datagrams. All methods are safe for concurrent
// use.
type Machine interface {
	// DialTCP connects to dst in the machine with src as the source address;
	// the port is the kernel's choice.
	DialTCP(ctx context.Context, src netip.Addr, dst netip.AddrPort) (Conn, error)
	// DialUDP returns a connected socket to dst with src's address as source.
	// A source port other than 0 is kept when it is free, else replaced.
	DialUDP(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error)
	// ReplyUDP sends payloads to flow.Src as if they came from flow.Dst. It does not
	// block; the error is the first that one of them met.
	ReplyUDP(flow portolan.Flow, payloads ...[]byte) error
	// RefuseUDP answers a datagram of the flow with the ICMP error that
	// Classify(reason) stands for. payload is the refused datagram's.
	RefuseUDP(flow portolan.Flow, payload []byte, reason error) error
	// ReplyEcho sends the echo reply of a request that HandleEcho took.
	ReplyEcho(flow portolan.Flow, seq uint16, payload []byte) error
	// RefuseEcho answers an echo request with an ICMP error, as RefuseUDP does.
	RefuseEcho(flow portolan.Flow, seq uint16, payload []byte, reason error) error
}

// Detacher is a connection of DialUDP that can leave the poller of package net.
type Detacher interface {
	// Detach closes the connection and returns its socket's descriptor, which the
	// caller closes, and then calls release. After an error the connection is as it was.
	Detach() (fd int, release func(), err error)
}

// Dialer is a Machine that dials without a goroutine that waits.
type Dialer interface {
	// StartDial is DialTCP that does not wait: done is called once with what DialTCP
	// returns, before StartDial returns or later from another goroutine.
	StartDial(ctx context.Context, src netip.Addr, dst netip.AddrPort, done func(Conn, error))
}
