package lab

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/portolan-net/portolan/internal/portolan"
)

// Socket is one line of /proc/net/tcp, tcp6, udp or udp6. IPv4-mapped addresses
// are unmapped. Remote is zero for what is not connected.
type Socket struct {
	Proto     portolan.Proto
	Local     netip.AddrPort
	Remote    netip.AddrPort
	Listening bool
	Inode     uint64
}

// Sockets lists all TCP and UDP sockets of the node.
func (n *Node) Sockets() ([]Socket, error) {
	var all []Socket
	err := n.Do(func() error {
		for _, file := range []string{"tcp", "tcp6", "udp", "udp6"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			proto := portolan.TCP
			if strings.HasPrefix(file, "udp") {
				proto = portolan.UDP
			}
			socks, err := parseSockets(proto, string(text))
			if err != nil {
				return fmt.Errorf("parse /proc/net/%s: %w", file, err)
			}
			all = append(all, socks...)
		}
		return nil
	})
	return all, err
}

// SocketsOf lists those of the node's sockets that a process has open.
func (n *Node) SocketsOf(pid int) ([]Socket, error) {
	all, err := n.Sockets()
	if err != nil {
		return nil, err
	}
	held := openSockets(pid)
	return slices.DeleteFunc(all, func(s Socket) bool { return !held[s.Inode] }), nil
}

// SocketOwners returns the processes that have the node's socket with these
// addresses open. A zero address and a zero port match any. It is an error when
// no such socket or no owner is found.
func (n *Node) SocketOwners(proto portolan.Proto, local, remote netip.AddrPort) ([]int, error) {
	all, err := n.Sockets()
	if err != nil {
		return nil, err
	}
	match := slices.DeleteFunc(all, func(s Socket) bool {
		return s.Proto != proto || !covers(local, s.Local) || !covers(remote, s.Remote)
	})
	if len(match) == 0 {
		return nil, fmt.Errorf("find %s socket %s > %s on %s: no such socket", proto, local, remote, n.Name)
	}
	var owners []int
	for _, pid := range pids() {
		held := openSockets(pid)
		if slices.ContainsFunc(match, func(s Socket) bool { return held[s.Inode] }) {
			owners = append(owners, pid)
		}
	}
	if len(owners) == 0 {
		return nil, fmt.Errorf("find %s socket %s > %s on %s: no process holds it", proto, local, remote, n.Name)
	}
	return owners, nil
}

// covers reports whether a pattern with zero parts matches got.
func covers(pattern, got netip.AddrPort) bool {
	return (!pattern.Addr().IsValid() || pattern.Addr() == got.Addr()) &&
		(pattern.Port() == 0 || pattern.Port() == got.Port())
}

// openSockets returns the inodes of a process's sockets.
func openSockets(pid int) map[uint64]bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, _ := os.ReadDir(dir) // a process that ended has none
	held := map[uint64]bool{}
	for _, e := range entries {
		target, _ := os.Readlink(filepath.Join(dir, e.Name()))
		if rest, ok := strings.CutPrefix(target, "socket:["); ok {
			if inode, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64); err == nil {
				held[inode] = true
			}
		}
	}
	return held
}

// stateListen is TCP_LISTEN of the kernel's net/tcp_states.h.
const stateListen = "0A"

// parseSockets reads the format of proc(5), /proc/net/tcp and the like.
func parseSockets(proto portolan.Proto, text string) ([]Socket, error) {
	var all []Socket
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) < 10 {
			return nil, fmt.Errorf("line %q: want at least 10 fields", line)
		}
		local, err := parseHexAddr(f[1])
		if err != nil {
			return nil, err
		}
		remote, err := parseHexAddr(f[2])
		if err != nil {
			return nil, err
		}
		inode, err := strconv.ParseUint(f[9], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("inode %q: %w", f[9], err)
		}
		if remote.Port() == 0 && remote.Addr().IsUnspecified() {
			remote = netip.AddrPort{}
		}
		all = append(all, Socket{proto, local, remote, proto == portolan.TCP && f[3] == stateListen, inode})
	}
	return all, nil
}

// parseHexAddr reads "0A0200C0:0050": words in the machine's byte order, then
// the port.
func parseHexAddr(text string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, fmt.Errorf("address %q: want 8 or 32 hexadecimal digits and a port", text)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q: %w", text, err)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), nil
}
