package mmsg

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// checkPatience is how long a datagram may take over loopback, on a busy computer.
const checkPatience = 2 * time.Second

// checkBuffer holds a message's datagrams one by one.
const checkBuffer = 1 << 20

// Check tries segmentation offload over loopback, where the sockets that open makes
// are: what was joined has to arrive whole and in the right pieces, merged and not
// merged. A family that is not there is left out. It takes a moment; when datagrams
// get lost, seconds.
func Check(open func(six bool) (fd int, err error)) error {
	for _, addr := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		err := checkFamily(addr, open)
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("over %s: %w", addr, err)
		}
	}
	return nil
}

func checkFamily(addr netip.Addr, open func(six bool) (int, error)) error {
	from, err := open(addr.Is6())
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := open(addr.Is6())
	if err != nil {
		return err
	}
	defer unix.Close(to)
	_ = unix.SetsockoptInt(to, unix.SOL_SOCKET, unix.SO_RCVBUF, checkBuffer) // capped, never refused
	at, err := bindLoopback(to, addr)
	if err != nil {
		return err
	}
	for _, merge := range []int{0, 1} {
		if err := unix.SetsockoptInt(to, unix.SOL_UDP, unix.UDP_GRO, merge); err != nil {
			return fmt.Errorf("set UDP_GRO to %d: %w", merge, err)
		}
		if err := checkTrain(from, to, at); err != nil {
			return fmt.Errorf("with UDP_GRO %d: %w", merge, err)
		}
	}
	return nil
}

// bindLoopback returns the address that fd got.
func bindLoopback(fd int, addr netip.Addr) (netip.AddrPort, error) {
	var local unix.Sockaddr = &unix.SockaddrInet6{Addr: addr.As16()}
	if addr.Is4() {
		local = &unix.SockaddrInet4{Addr: addr.As4()}
	}
	if err := unix.Bind(fd, local); err != nil {
		return netip.AddrPort{}, fmt.Errorf("bind: %w", err)
	}
	bound, err := unix.Getsockname(fd)
	switch bound := bound.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(addr, uint16(bound.Port)), err //nolint:gosec // a port
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(addr, uint16(bound.Port)), err //nolint:gosec // a port
	}
	return netip.AddrPort{}, err
}

// checkTrain sends one joined message, as large as there are, and looks at what
// arrives.
func checkTrain(from, to int, at netip.AddrPort) error {
	const size = 1400
	var train [][]byte
	for i := range byte(maxMessage / size) {
		train = append(train, bytes.Repeat([]byte{i}, size))
	}
	train = append(train, make([]byte, maxMessage%size))
	out := spare.Get().(*outgoing)
	defer spare.Put(out)
	if messages := out.fill(out.address(at), nil, train, maxMessage); messages != 1 {
		return fmt.Errorf("%d datagrams make %d messages", len(train), messages)
	}
	if _, errno := out.send(uintptr(from), 1); errno != 0 {
		return fmt.Errorf("send with UDP_SEGMENT: %w", errno)
	}
	for got, b := 0, NewBatch(1, lentRoom, 0); got < len(train); {
		n, err := awaitDatagrams(to, b)
		if err != nil {
			return fmt.Errorf("receive datagram %d of %d: %w", got, len(train), err)
		}
		for i := range n {
			if got == len(train) || !bytes.Equal(b.Payload(i), train[got]) {
				return fmt.Errorf("datagram %d arrived with %d bytes, or others than were sent", got, len(b.Payload(i)))
			}
			got++
		}
	}
	return nil
}

func awaitDatagrams(fd int, b *Batch) (int, error) {
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	for deadline := time.Now().Add(checkPatience); time.Now().Before(deadline); {
		_, _ = unix.Poll(ready, int(checkPatience.Milliseconds()))
		if n, err := b.receive(uintptr(fd)); !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
	}
	return 0, errors.New("it is lost")
}
