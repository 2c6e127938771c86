package hostnet

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// owners tells which sockets are containers'.
type owners struct {
	network, mounts string // the machine's own namespaces, as links of /proc say
	known           map[uint32]owner
}

// owner is what is known about one socket.
type owner struct {
	theirs    bool   // a container's
	container string // its id, where that can be told
	tries     int    // left, to find who holds it
}

// maxTries is how often a socket is looked up that no container holds: its
// process may be just starting, or handing it on.
const maxTries = 3

func newOwners() (*owners, error) {
	network, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("look at own network: %w", err)
	}
	mounts, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, fmt.Errorf("look at own mounts: %w", err)
	}
	return &owners{network: network, mounts: mounts, known: map[uint32]owner{}}, nil
}

// update looks up the sockets that are new, and forgets those that have gone.
func (o *owners) update(sockets []Socket) {
	now, search := make(map[uint32]owner, len(sockets)), map[uint32]bool{}
	for _, s := range sockets {
		entry, known := o.known[s.Inode]
		if !known {
			entry.tries = maxTries
		}
		if !entry.theirs && entry.tries > 0 {
			entry.tries--
			search[s.Inode] = true
		}
		now[s.Inode] = entry
	}
	o.known = now
	if len(search) == 0 {
		return
	}
	for _, pid := range processes() {
		if o.inContainer(pid) {
			o.take(pid, search)
		}
	}
}

// take notes which of the sockets the process holds.
func (o *owners) take(pid string, search map[uint32]bool) {
	dir := filepath.Join("/proc", pid, "fd")
	fds, err := os.ReadDir(dir)
	if err != nil {
		return // it has ended
	}
	container := ""
	for _, fd := range fds {
		inode, ok := socketInode(filepath.Join(dir, fd.Name()))
		if !ok || !search[inode] {
			continue
		}
		if container == "" {
			container = o.containerOf(pid)
		}
		o.known[inode] = owner{theirs: true, container: container}
	}
}

// inContainer reports whether a process of a container uses the machine's network.
func (o *owners) inContainer(pid string) bool {
	network, err := os.Readlink(filepath.Join("/proc", pid, "ns/net"))
	if err != nil || network != o.network {
		return false
	}
	mounts, err := os.Readlink(filepath.Join("/proc", pid, "ns/mnt"))
	return err == nil && mounts != o.mounts
}

// maxDepth bounds the way from a process to its container's shim.
const maxDepth = 100

// containerOf follows the parents to the first process outside, which is
// containerd's shim, and reads the id from its command line.
func (o *owners) containerOf(pid string) string {
	for range maxDepth {
		if !o.inContainer(pid) {
			break
		}
		if pid = parent(pid); pid == "" {
			return ""
		}
	}
	line, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
	if err != nil {
		return ""
	}
	words := strings.Split(string(line), "\x00")
	for i, word := range words[:len(words)-1] {
		if word == "-id" {
			return words[i+1]
		}
	}
	return ""
}

// parent is the fourth field of proc_pid_stat(5); the second may hold anything.
func parent(pid string) string {
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return ""
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 || string(fields[1]) == "0" {
		return ""
	}
	return string(fields[1])
}

func processes() []string {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var pids []string
	for _, name := range names {
		if _, err := strconv.Atoi(name); err == nil {
			pids = append(pids, name)
		}
	}
	return pids
}

// socketInode reads a link such as "socket:[4711]".
func socketInode(link string) (uint32, bool) {
	target, err := os.Readlink(link)
	if err != nil {
		return 0, false
	}
	number, ok := strings.CutPrefix(target, "socket:[")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
	return uint32(inode), err == nil
}

// OwnSockets are the inodes of this process's own sockets.
func OwnSockets() map[uint32]bool {
	own := map[uint32]bool{}
	const dir = "/proc/self/fd"
	fds, err := os.ReadDir(dir)
	if err != nil {
		return own
	}
	for _, fd := range fds {
		if inode, ok := socketInode(filepath.Join(dir, fd.Name())); ok {
			own[inode] = true
		}
	}
	return own
}
