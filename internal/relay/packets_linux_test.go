package relay

import (
	"encoding/binary"
	"net"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A bulk stream is moved in multiples of what the kernel puts into one packet.
func TestBulkIsMovedInWholePackets(t *testing.T) {
	noLeaks(t)
	enterSmallLoopback(t)
	const size = 4 << 20
	left, a := pair(t)
	b, right := pair(t)
	defer left.Close()
	defer right.Close()
	for _, conn := range []*net.TCPConn{a, right} {
		control(t, conn, func(fd int) { must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 2*size)) })
	}
	_, err := left.Write(make([]byte, size))
	must(t, err)
	capture := openCapture(t)
	src, dst := taken(t, a), taken(t, b)
	eventually(t, "all bytes wait to be read", func() bool {
		n, err := unix.IoctlGetInt(src.fd, unix.SIOCINQ)
		return err == nil && n == size
	})
	var chunks []int
	for h, rest := (half{bulk: true}), size; rest > spliceSize; rest -= chunks[len(chunks)-1] {
		must(t, h.fill(&src, &dst, make([]byte, scratchSize)))
		chunks = append(chunks, h.chunk.n)
		for _, err := h.chunk.write(dst.fd); err == unix.EAGAIN; _, err = h.chunk.write(dst.fd) {
			awaitRoom(t, dst.fd)
		}
	}
	var packet int
	eventually(t, "a full packet has left", func() bool {
		packet = max(packet, slices.Max(append(capture.payloads(t, right.LocalAddr().(*net.TCPAddr).Port), 0)))
		return packet > 1<<15
	})
	for _, n := range chunks {
		if n%packet != 0 || n <= spliceSize-packet {
			t.Errorf("%d bytes are moved at a time, want a multiple of %d near %d", n, packet, spliceSize)
		}
	}
}

func awaitRoom(t *testing.T, fd int) {
	t.Helper()
	_, err := retry(func() (int, error) { return unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 5000) })
	must(t, err)
}

// taken is a socket as a flow has it.
func taken(t *testing.T, conn *net.TCPConn) end {
	t.Helper()
	e, err := takeSocket(conn)
	must(t, err)
	t.Cleanup(func() { _ = e.owner.Close() })
	return e
}

// enterSmallLoopback is a network namespace whose lo has segments as a
// container's link has them.
func enterSmallLoopback(t *testing.T) {
	t.Helper()
	enterNetwork(t)
	sysctl(t, "ipv4/tcp_congestion_control", "reno")
	sysctl(t, "ipv4/tcp_rmem", "4096 131072 67108864")
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetMTU(lo, 1500))
}

func control(t *testing.T, conn *net.TCPConn, do func(fd int)) {
	t.Helper()
	raw, err := conn.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { do(int(fd)) }))
}

// capture sees the packets that come by lo.
type capture struct{ fd int }

func openCapture(t *testing.T) capture {
	t.Helper()
	protocol := binary.NativeEndian.Uint16([]byte{unix.ETH_P_IP >> 8, unix.ETH_P_IP & 0xff})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(protocol))
	must(t, os.NewSyscallError("socket", err))
	t.Cleanup(func() { must(t, unix.Close(fd)) })
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20))
	return capture{fd}
}

// payloads returns how many bytes of the stream each packet to a port had.
func (c capture) payloads(t *testing.T, port int) (sizes []int) {
	t.Helper()
	headers := make([]byte, 128)
	for {
		n, _, err := unix.Recvfrom(c.fd, headers, 0)
		if err == unix.EAGAIN {
			return sizes
		}
		must(t, err)
		if n < 40 || headers[9] != unix.IPPROTO_TCP {
			continue
		}
		ip := int(headers[0]&0xf) * 4
		if int(binary.BigEndian.Uint16(headers[ip+2:])) == port {
			sizes = append(sizes, int(binary.BigEndian.Uint16(headers[2:]))-ip-int(headers[ip+12]>>4)*4)
		}
	}
}
