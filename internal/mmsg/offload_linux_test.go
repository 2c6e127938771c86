package mmsg

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sized are payloads of these sizes, each with its number in all bytes.
func sized(sizes ...int) (payloads [][]byte) {
	for i, size := range sizes {
		payloads = append(payloads, bytes.Repeat([]byte{byte(i)}, size))
	}
	return payloads
}

func TestFill(t *testing.T) {
	hundred := slices.Repeat([]int{10}, 100)
	for _, test := range []struct {
		sizes  []int
		below  int
		counts []int // datagrams in each message
	}{
		{sizes: []int{5}, below: 1 << 20, counts: []int{1}},
		{sizes: []int{5, 5, 5}, below: 1 << 20, counts: []int{3}},
		{sizes: []int{5, 5, 5}, below: 5, counts: []int{1, 1, 1}},
		{sizes: []int{5, 5, 5}, counts: []int{1, 1, 1}},
		{sizes: []int{5, 5, 3, 3, 5}, below: 6, counts: []int{3, 1, 1}},
		{sizes: []int{3, 5, 5}, below: 6, counts: []int{1, 2}},
		{sizes: []int{6, 6, 5, 5}, below: 6, counts: []int{1, 1, 2}},
		{sizes: []int{0, 0, 4, 4, 0, 4}, below: 6, counts: []int{1, 1, 2, 1, 1}},
		{sizes: []int{65507, 1}, below: 1 << 20, counts: []int{1, 1}},
		{sizes: []int{32753, 32753, 1}, below: 1 << 20, counts: []int{3}},
		{sizes: []int{32753, 32753, 2}, below: 1 << 20, counts: []int{2, 1}},
		{sizes: []int{65506, 1, 1}, below: 1 << 20, counts: []int{2, 1}},
		{sizes: hundred, below: 1 << 20, counts: []int{64}},
	} {
		out := new(outgoing)
		n := out.fill(0, []byte{1, 2, 3, 4, 5, 6, 7, 8}, sized(test.sizes...), test.below)
		if !slices.Equal(out.counts[:n], test.counts) {
			t.Errorf("sizes %d below %d leave as %d, want %d", test.sizes, test.below, out.counts[:n], test.counts)
		}
	}
}

func TestSplit(t *testing.T) {
	for _, test := range []struct {
		bytes, size int
		want        []int
	}{
		{0, 0, []int{0}},
		{7, 0, []int{7}},
		{7, 7, []int{7}},
		{7, 8, []int{7}},
		{7, 3, []int{3, 3, 1}},
		{9, 3, []int{3, 3, 3}},
		{7, -1, []int{7}},
		{3, 1, []int{1, 1, 1}},
	} {
		b, sizes := NewBatch(1, 16, 0), []int{}
		b.split(0, make([]byte, test.bytes), test.size)
		for i := range b.datagrams {
			sizes = append(sizes, len(b.Payload(i)))
		}
		if !slices.Equal(sizes, test.want) {
			t.Errorf("%d bytes in pieces of %d are %d, want %d", test.bytes, test.size, sizes, test.want)
		}
	}
}

// What is joined and split again is what it was.
func FuzzJoinAndSplit(f *testing.F) {
	f.Add([]byte{5, 5, 5, 3, 0, 0, 7}, 6)
	f.Fuzz(func(t *testing.T, sizes []byte, below int) {
		var payloads [][]byte
		for i, size := range sizes {
			payloads = append(payloads, bytes.Repeat([]byte{byte(i)}, 9*int(size)))
		}
		out, b, got := new(outgoing), NewBatch(1, 16, 0), 0
		for rest := payloads; len(rest) > 0; {
			messages, sent := out.fill(0, nil, rest, below), 0
			for m := range messages {
				count, size := out.counts[m], 0
				if control := out.msgs[m].hdr.Control; count > 1 && control == nil {
					t.Fatalf("%d datagrams without their size", count)
				}
				if count > 1 {
					size = len(rest[sent])
				}
				b.datagrams = b.datagrams[:0]
				b.split(0, bytes.Join(rest[sent:sent+count], nil), size)
				for i := range b.datagrams {
					if got == len(payloads) || !bytes.Equal(b.Payload(i), payloads[got]) {
						t.Fatalf("datagram %d of %d comes out as %x", got, len(payloads), b.Payload(i))
					}
					got++
				}
				sent += count
			}
			rest = rest[sent:]
		}
		if got != len(payloads) {
			t.Errorf("%d datagrams of %d", got, len(payloads))
		}
	})
}

// receive returns the next datagrams, count at most or what is there after a while,
// and how many messages they came in.
func receive(t *testing.T, on *net.UDPConn, socket *Socket, count int) (arrived [][]byte, messages int) {
	t.Helper()
	b := NewBatch(32, lentRoom, 64)
	control(t, on, func(fd uintptr) {
		for deadline := time.Now().Add(5 * time.Second); len(arrived) < count && time.Now().Before(deadline); messages += b.messages {
			n, err := socket.Receive(fd, b)
			if err != nil && err != unix.EAGAIN {
				t.Fatal(err)
			}
			for i := range n {
				arrived = append(arrived, bytes.Clone(b.Payload(i)))
			}
		}
		if n, err := socket.Receive(fd, b); err != unix.EAGAIN {
			t.Errorf("%d datagrams more than %d, %v", n, count, err)
		}
	})
	return arrived, messages
}

// Datagrams of odd sizes arrive as they were, joined or not, merged or not.
func TestOffloadKeepsDatagrams(t *testing.T) {
	sizes := []int{1, 1400, 1400, 1400, 700, 1400, 0, 0, 1400, 1400, 9000, 9000, 2, 65507, 65507, 1}
	sizes = append(sizes, slices.Repeat([]int{1400}, 150)...)
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		for _, join := range []bool{false, true} {
			for _, merge := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s join %t merge %t", addr, join, merge), func(t *testing.T) {
					from, to := &Socket{Offload: new(Offload)}, &Socket{Offload: new(Offload)}
					from.Offload.Set(join)
					to.Offload.Set(merge)
					sender, _ := listen(t, addr)
					receiver, at := listen(t, addr)
					control(t, receiver, func(fd uintptr) {
						if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20); err != nil {
							t.Fatal(err)
						}
					})
					receive(t, receiver, to, 0) // merges from now on
					want := sized(sizes...)
					control(t, sender, func(fd uintptr) {
						if n, err := from.Send(fd, at, nil, want); n != len(want) || err != nil {
							t.Fatalf("%d of %d sent: %v", n, len(want), err)
						}
					})
					got, messages := receive(t, receiver, to, len(want))
					if !slices.EqualFunc(got, want, bytes.Equal) {
						t.Errorf("%d datagrams arrived, not the %d that were sent", len(got), len(want))
					}
					if together := messages < len(want)/4; together != (join && merge) {
						t.Errorf("%d datagrams came in %d messages", len(want), messages)
					}
				})
			}
		}
	}
}

// What the kernel refuses to join arrives one by one; the rest is joined, and the
// socket knows.
func TestRefusedIsSentSingly(t *testing.T) {
	for _, test := range []struct {
		addr                 string
		level, option, value int
		joins                int // the size from which on nothing is joined
	}{
		{"127.0.0.1:0", unix.SOL_SOCKET, unix.SO_NO_CHECK, 1, 600},
		{"[::1]:0", unix.SOL_IPV6, unix.IPV6_MTU, 1500, 3000},
	} {
		sender, _ := listen(t, test.addr)
		receiver, at := listen(t, test.addr)
		from := &Socket{Offload: new(Offload)}
		from.Offload.Set(true)
		want := sized(600, 600, 3000, 3000, 3000, 600, 600, 3000, 3000)
		control(t, sender, func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), test.level, test.option, test.value); err != nil {
				t.Fatal(err)
			}
			if n, err := from.Send(fd, at, nil, want); n != len(want) || err != nil {
				t.Fatalf("%s: %d of %d sent: %v", test.addr, n, len(want), err)
			}
		})
		got, _ := receive(t, receiver, new(Socket), len(want))
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%s: %d datagrams arrived, not the %d that were sent", test.addr, len(got), len(want))
		}
		if from.joins() != test.joins {
			t.Errorf("%s: datagrams below %d bytes are joined, want %d", test.addr, from.joins(), test.joins)
		}
	}
}

func TestCheck(t *testing.T) {
	open := func(six bool) (int, error) {
		family := unix.AF_INET
		if six {
			family = unix.AF_INET6
		}
		return unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	}
	if err := Check(open); err != nil {
		t.Errorf("this kernel: %v", err)
	}
	// A kernel refuses joined datagrams of a socket that sends no checksums.
	err := Check(func(six bool) (int, error) {
		fd, err := open(six)
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)
		}
		return fd, err
	})
	if err == nil {
		t.Error("sockets without checksums pass")
	}
	if err := Check(func(bool) (int, error) { return -1, unix.EAFNOSUPPORT }); err != nil {
		t.Errorf("families that are not there: %v", err)
	}
	var none netip.Addr
	if err := checkFamily(none, func(bool) (int, error) { return -1, unix.EMFILE }); err != unix.EMFILE {
		t.Errorf("no socket: %v", err)
	}
}
