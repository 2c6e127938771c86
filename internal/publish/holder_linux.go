package publish

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/portolan-net/portolan/internal/portolan"
)

// processHolding names the process whose socket stands in the way of b. It reads
// /proc/net (proc_net_tcp in the kernel's documentation) for the socket's inode
// and the descriptors of all processes for that inode; other users' descriptors
// can't be read without privilege.
func processHolding(ctx context.Context, b portolan.Binding) string {
	inodes := map[string]bool{}
	for _, table := range []string{b.Proto.String(), b.Proto.String() + "6"} {
		file, err := os.Open(filepath.Join("/proc/self/net", table))
		if err != nil {
			continue // no IPv6
		}
		lines := bufio.NewScanner(file)
		lines.Scan() // the heading
		for lines.Scan() {
			if inode, ok := holds(lines.Text(), b); ok {
				inodes["socket:["+inode+"]"] = true
			}
		}
		_ = file.Close()
	}
	if len(inodes) == 0 {
		return ""
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd")
	for _, dir := range links {
		if ctx.Err() != nil {
			return ""
		}
		if holdsOne(dir, inodes) {
			process := filepath.Dir(dir)
			name, _ := os.ReadFile(filepath.Join(process, "comm"))
			return fmt.Sprintf(": held by %s (pid %s)", strings.TrimSpace(string(name)), filepath.Base(process))
		}
	}
	return ""
}

func holdsOne(dir string, inodes map[string]bool) bool {
	fds, _ := os.ReadDir(dir)
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && inodes[target] {
			return true
		}
	}
	return false
}

// tcpListen is TCP_LISTEN, as /proc/net/tcp writes it.
const tcpListen = "0A"

// holds reads one line of /proc/net/{tcp,udp}[6] and returns the inode of a
// socket that keeps b from binding.
func holds(line string, b portolan.Binding) (inode string, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 10 {
		return "", false
	}
	local, err := parseAddrPort(fields[1])
	if err != nil || local.Port() != b.Host.Port() {
		return "", false
	}
	if b.Proto == portolan.TCP && fields[3] != tcpListen {
		return "", false
	}
	return fields[9], clash(local.Addr(), b.Host.Addr())
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
