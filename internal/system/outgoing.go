package system

import "math/rand/v2"

// Outgoing chooses the local ports of sockets that leave them to the kernel, so
// that they stay out of one range. The nil *Outgoing leaves the choice alone.
type Outgoing struct {
	kernel PortRange        // what the kernel chooses from
	avoid  func() PortRange // asked for each socket
}

// NewOutgoing returns an Outgoing that avoids what avoid returns.
func NewOutgoing(avoid func() PortRange) *Outgoing {
	return &Outgoing{kernel: kernelPorts(), avoid: avoid}
}

// choice is the part of the kernel's range that the next socket gets: below or
// above what is avoided, each as often as it has ports, so that both fill up
// alike. The zero PortRange means all: nothing would be left, or nothing is in
// the way.
func (o *Outgoing) choice() PortRange {
	if o == nil {
		return PortRange{}
	}
	avoid := o.avoid()
	if avoid.Size() == 0 || avoid.Last < o.kernel.First || avoid.First > o.kernel.Last {
		return PortRange{}
	}
	var below, above PortRange
	if avoid.First > o.kernel.First {
		below = PortRange{o.kernel.First, avoid.First - 1}
	}
	if avoid.Last < o.kernel.Last {
		above = PortRange{avoid.Last + 1, o.kernel.Last}
	}
	all := below.Size() + above.Size()
	if all == 0 {
		return PortRange{}
	}
	if rand.IntN(all) < below.Size() {
		return below
	}
	return above
}
