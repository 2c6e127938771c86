package publish

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/portolan-net/portolan/internal/portolan"
)

// HolderOf says which process's socket stands in the way of b, as the end of an
// error text; "" when none is found. It reads
// /proc/net (proc_net_tcp in the kernel's documentation) for the socket's inode
// and the descriptors of all processes for that inode. Other users' descriptors
// can't be read without privilege; their sockets name the user at least. Where
// somebody knows more of a process than its name, known returns that, else ""; nil
// knows nothing.
func HolderOf(ctx context.Context, b portolan.Binding, known func(ctx context.Context, pid int) string) string {
	holders, users := clashing(b)
	if len(holders) > 0 {
		return ": held by " + owner(ctx, holders, known)
	}
	if len(users) > 0 { // the kernel gave a client this port as its own
		return ": in use by a connection of " + owner(ctx, users, nil)
	}
	return ""
}

// socketUsers maps a socket, as /proc/PID/fd shows it, to its user's id.
type socketUsers map[string]string

// clashing returns the sockets that take the port of b: those that listen, and
// connections that have it as their local port.
func clashing(b portolan.Binding) (holders, users socketUsers) {
	holders, users = socketUsers{}, socketUsers{}
	for _, table := range []string{b.Proto.String(), b.Proto.String() + "6"} {
		file, err := os.Open(filepath.Join("/proc/self/net", table))
		if err != nil {
			continue // no IPv6
		}
		lines := bufio.NewScanner(file)
		lines.Scan() // the heading
		for lines.Scan() {
			s, ok := parseSocket(lines.Text())
			if !ok || s.local.Port() != b.Host.Port() || !clash(s.local.Addr(), b.Host.Addr()) {
				continue
			}
			if b.Proto == portolan.UDP || s.state == tcpListen {
				holders["socket:["+s.inode+"]"] = s.uid
			} else {
				users["socket:["+s.inode+"]"] = s.uid
			}
		}
		_ = file.Close()
	}
	return holders, users
}

// owner names the first process that has one of the sockets, or else its user.
func owner(ctx context.Context, sockets socketUsers, known func(ctx context.Context, pid int) string) string {
	for process := range likelyFirst() {
		if ctx.Err() != nil {
			break
		}
		if holdsOne(filepath.Join(process, "fd"), sockets) {
			text, _ := os.ReadFile(filepath.Join(process, "comm"))
			name := fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(text)), filepath.Base(process))
			if pid, err := strconv.Atoi(filepath.Base(process)); err == nil && known != nil {
				if more := known(ctx, pid); more != "" {
					return more + ": " + name
				}
			}
			return name
		}
	}
	for _, uid := range sockets {
		return "a process of user " + uid
	}
	return ""
}

// likelyFirst are the directories of all processes, those in this network namespace
// first: engines have thousands of others, and to look into each takes long. One
// that has moved to another namespace may hold a socket of this one still.
func likelyFirst() iter.Seq[string] {
	return func(yield func(string) bool) {
		own, _ := os.Readlink("/proc/self/ns/net")
		var others []string
		all, _ := filepath.Glob("/proc/[0-9]*")
		for _, process := range all {
			if namespace, err := os.Readlink(filepath.Join(process, "ns/net")); err != nil || namespace != own {
				others = append(others, process)
			} else if !yield(process) {
				return
			}
		}
		for _, process := range others {
			if !yield(process) {
				return
			}
		}
	}
}

func holdsOne(dir string, sockets socketUsers) bool {
	fds, _ := os.ReadDir(dir)
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if _, ok := sockets[target]; err == nil && ok {
			return true
		}
	}
	return false
}

// tcpListen is TCP_LISTEN, as /proc/net/tcp writes it.
const tcpListen = "0A"

// socketLine is what one line of /proc/net/{tcp,udp}[6] tells.
type socketLine struct {
	local             netip.AddrPort
	state, uid, inode string
}

// parseSocket reads one line; ok is false for sockets without an inode, as those
// in TIME_WAIT, which hold nobody up.
func parseSocket(line string) (s socketLine, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[9] == "0" {
		return s, false
	}
	local, err := parseAddrPort(fields[1])
	return socketLine{local: local, state: fields[3], uid: fields[7], inode: fields[9]}, err == nil
}

// clash reports whether a socket bound to held keeps another from wanted. An
// IPv6 wildcard may take IPv4 too; the table does not tell.
func clash(held, wanted netip.Addr) bool {
	if held == netip.IPv6Unspecified() {
		return true
	}
	held = held.Unmap()
	return held.Is4() == wanted.Is4() && (held == wanted || held.IsUnspecified() || wanted.IsUnspecified())
}

// parseAddrPort reads "0100007F:0050": 32-bit words in the byte order of the
// computer, the port in hexadecimal.
func parseAddrPort(text string) (netip.AddrPort, error) {
	addrText, portText, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(addrText)
	if err != nil || (len(raw) != 4 && len(raw) != 16) {
		return netip.AddrPort{}, fmt.Errorf("parse socket address %q: want 8 or 32 hexadecimal digits", text)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.NativeEndian.Uint32(raw[i:]))
	}
	port, err := strconv.ParseUint(portText, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("parse socket address %q: %w", text, err)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr, uint16(port)), nil
}
