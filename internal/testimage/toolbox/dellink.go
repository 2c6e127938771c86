//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/testimage"
)

// delLink deletes an interface of the network namespace behind another one's
// peer, as a process may that has CAP_NET_ADMIN in the user namespace which owns
// that network namespace (rtnetlink(7), IFLA_TARGET_NETNSID).
func delLink(_ context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("del-link")
	behind := flags.String("behind", "eth0", "interface of this namespace")
	name := parse(flags, args, 1, 1)[0]
	id, err := peerNamespace(*behind)
	if err != nil {
		return err
	}
	r.Remote = fmt.Sprintf("namespace %d", id)
	request := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	request = appendAttr(request, unix.IFLA_TARGET_NETNSID, binary.NativeEndian.AppendUint32(nil, id))
	request = appendAttr(request, unix.IFLA_IFNAME, append([]byte(name), 0))
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], unix.RTM_DELLINK)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	if err := ask1(request); err != nil {
		return fmt.Errorf("delete %s in namespace %d: %w", name, id, err)
	}
	return nil
}

// peerNamespace is this namespace's number for the one in which the peer of an
// interface is (IFLA_LINK_NETNSID).
func peerNamespace(name string) (uint32, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	table, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return 0, fmt.Errorf("list interfaces: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(table)
	if err != nil {
		return 0, fmt.Errorf("list interfaces: %w", err)
	}
	for _, m := range messages {
		// struct ifinfomsg: the index is at 4.
		if m.Header.Type != unix.RTM_NEWLINK || int(binary.NativeEndian.Uint32(m.Data[4:])) != iface.Index {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return 0, fmt.Errorf("list interfaces: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_LINK_NETNSID {
				return binary.NativeEndian.Uint32(a.Value), nil
			}
		}
	}
	return 0, fmt.Errorf("interface %s has no peer in another namespace", name)
}

// appendAttr adds one attribute, padded to four bytes.
func appendAttr(message []byte, kind uint16, value []byte) []byte {
	message = binary.NativeEndian.AppendUint16(message, uint16(unix.SizeofRtAttr+len(value)))
	message = binary.NativeEndian.AppendUint16(message, kind)
	message = append(message, value...)
	return append(message, make([]byte, -len(value)&3)...)
}

// ask1 sends one request and returns what the acknowledgement says.
func ask1(request []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return err
	}
	messages, err := syscall.ParseNetlinkMessage(buf[:n])
	if err != nil || len(messages) == 0 || messages[0].Header.Type != unix.NLMSG_ERROR {
		return fmt.Errorf("read acknowledgement: %w", unix.EBADMSG)
	}
	if number := int32(binary.NativeEndian.Uint32(messages[0].Data)); number != 0 {
		return unix.Errno(-number)
	}
	return nil
}
