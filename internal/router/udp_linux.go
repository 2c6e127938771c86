package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/mmsg"
	"github.com/portolan-net/portolan/internal/portolan"
)

const (
	// udpBatch is how many datagrams one recvmmsg takes at most.
	udpBatch = 32
	// udpRoom holds the largest datagram.
	udpRoom = 65536
	// udpControl holds one control message with a socket address.
	udpControl = 64
)

// original reads the destination that the sender of datagram i asked for from
// the control message of IP_RECVORIGDSTADDR or IPV6_RECVORIGDSTADDR; the zero
// value without one.
func original(b *mmsg.Batch, i int) netip.AddrPort {
	switch level, typ, data := b.Control(i); {
	case level == unix.SOL_IP && typ == unix.IP_ORIGDSTADDR, level == unix.SOL_IPV6 && typ == unix.IPV6_ORIGDSTADDR:
		return mmsg.ParseSockaddr(data)
	}
	return netip.AddrPort{}
}

// readUDP passes datagrams of one family to the handler, until ctx ends.
func (d *Datapath) readUDP(ctx context.Context, file *os.File, handler datapath.Handler) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("read UDP listener: %w", err)
	}
	b, payloads := mmsg.NewBatch(udpBatch, udpRoom, udpControl), make([][]byte, 0, udpBatch)
	for ctx.Err() == nil {
		n, err := waitBatch(raw, b)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return fmt.Errorf("read UDP listener: %w", err)
		}
		d.deliverUDP(handler, b, n, payloads)
	}
	return nil
}

// waitBatch receives, and waits for the first datagram.
func waitBatch(raw syscall.RawConn, b *mmsg.Batch) (n int, err error) {
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		n, recvErr = b.Receive(fd)
		return !errors.Is(recvErr, unix.EAGAIN)
	})
	return n, errors.Join(err, recvErr)
}

// deliverUDP passes n datagrams on, those of one flow that follow each other
// together. payloads is room for a batch.
func (d *Datapath) deliverUDP(handler datapath.Handler, b *mmsg.Batch, n int, payloads [][]byte) {
	flow := portolan.Flow{Proto: portolan.UDP}
	for i := range n {
		src, dst := b.From(i), original(b, i)
		if src != flow.Src || dst != flow.Dst {
			d.handleUDP(handler, flow, payloads)
			flow.Src, flow.Dst, payloads = src, dst, payloads[:0]
		}
		payloads = append(payloads, b.Payload(i))
	}
	d.handleUDP(handler, flow, payloads)
}

func (d *Datapath) handleUDP(handler datapath.Handler, flow portolan.Flow, payloads [][]byte) {
	if len(payloads) == 0 || !flow.Src.IsValid() || !flow.Dst.IsValid() {
		return
	}
	// Multicast and broadcast are not carried, and have no return path.
	if !answerable(flow.Src.Addr(), flow.Dst.Addr()) || flow.Src.Port() == 0 || d.isBroadcast(flow.Dst.Addr()) {
		return
	}
	if !d.known(flow.Src.Addr()) {
		d.log.Debug("drop source that the machine does not have", "flow", flow)
		return
	}
	if d.inside(flow.Dst.Addr()) {
		_ = d.RefuseUDP(flow, payloads[0], errInside) // never fails
		return
	}
	handler.HandleUDP(flow, payloads...)
}
