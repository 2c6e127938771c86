//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/testimage"
)

// udpTrain sends many datagrams as one message (udp(7), UDP_SEGMENT), after one that
// goes alone, and wants their echoes in order and of the same sizes. Count is the
// number of messages that they came in, merged where the way leaves them merged.
func udpTrain(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("udp-train")
	count := flags.Int("count", 40, "datagrams of full size; one of half the size follows")
	size := flags.Int("size", 1400, "payload bytes")
	timeout := flags.Duration("timeout", 5*time.Second, "for the echoes")
	addr := parse(flags, args, 1, 1)[0]
	opened, err := open(ctx, "udp", addr, "", *timeout, r)
	if err != nil {
		return err
	}
	defer opened.Close()
	conn := opened.(*net.UDPConn) // open makes no other
	if err := mergeDatagrams(conn); err != nil {
		return err
	}
	if err := exchangeDatagram(conn, 1, true, r); err != nil {
		return err
	}
	sent := payload(*count**size + *size/2)
	if _, _, err := conn.WriteMsgUDP(sent, segmentControl(*size), nil); err != nil {
		return fmt.Errorf("send train: %w", err)
	}
	r.Bytes = 0
	buf, oob := make([]byte, 1<<16), make([]byte, 256)
	for rest := sent; len(rest) > 0; {
		n, oobn, _, _, err := conn.ReadMsgUDP(buf, oob)
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", r.Bytes, len(sent), err)
		}
		// Merged ones end where a datagram of another size would be.
		each := n
		if merged := mergedSize(oob[:oobn]); merged > 0 {
			each = merged
		}
		if each != min(*size, len(rest)) || n > len(rest) || n%*size != 0 && n != len(rest) || !bytes.Equal(buf[:n], rest[:n]) {
			return fmt.Errorf("%d bytes in datagrams of %d, after %d of %d: %w", n, each, r.Bytes, len(sent), errMismatch)
		}
		r.Count, r.Bytes, rest = r.Count+1, r.Bytes+int64(n), rest[n:]
	}
	r.Outcome = testimage.OK
	return nil
}

// mergeDatagrams lets the kernel hand out several datagrams at once.
func mergeDatagrams(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) })
}

// mergedSize is the size of each datagram of a merged message but the last; 0 when
// it is one datagram.
func mergedSize(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_UDP && m.Header.Type == unix.UDP_GRO && len(m.Data) >= 4 {
			return int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return 0
}

// segmentControl makes one message leave as datagrams of that size; 0: as one.
func segmentControl(size int) []byte {
	if size == 0 {
		return nil
	}
	oob := make([]byte, unix.CmsgSpace(2))
	head := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	head.Level, head.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	head.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], uint16(size)) //nolint:gosec // of a datagram
	return oob
}
