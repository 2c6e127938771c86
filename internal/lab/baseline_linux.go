package lab

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Baseline is what was there at one moment: processes of the lab, mounts and
// unix sockets of the host, the machine's cgroups and named network namespaces,
// and the files below some directories.
type Baseline struct {
	lab  *Lab
	dirs []string
	had  map[string]bool
}

// Baseline remembers the present. dirs are directories in which no file may be
// left behind; they need not exist.
func (l *Lab) Baseline(dirs ...string) (*Baseline, error) {
	b := &Baseline{lab: l, dirs: dirs, had: map[string]bool{}}
	things, err := b.list()
	if err != nil {
		return nil, fmt.Errorf("take baseline: %w", err)
	}
	for _, thing := range things {
		b.had[thing] = true
	}
	// Of somebody else's tree too: it may lose its processes meanwhile.
	return b, walkCgroups(func(path string, _ []string) { b.had[cgroupThing(path)] = true })
}

// Leftovers lists what is there now and was not then, sorted.
func (b *Baseline) Leftovers() ([]string, error) {
	things, err := b.list()
	if err != nil {
		return nil, fmt.Errorf("list leftovers: %w", err)
	}
	left := slices.DeleteFunc(things, func(thing string) bool { return b.had[thing] })
	slices.Sort(left)
	return left, nil
}

// leftoverGrace is how long the kernel may take to remove what has ended.
const leftoverGrace = 5 * time.Second

// Check fails the test for each leftover that does not go within a few seconds.
func (b *Baseline) Check(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(leftoverGrace); ; time.Sleep(50 * time.Millisecond) {
		left, err := b.Leftovers()
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			for _, thing := range left {
				t.Errorf("left behind: %s", thing)
			}
			return
		}
	}
}

func (b *Baseline) list() ([]string, error) {
	var all []string
	for _, p := range b.lab.processes() {
		all = append(all, p.String())
	}
	for _, part := range []func() ([]string, error){b.mounts, b.unixSockets, b.cgroups, b.named, b.files} {
		things, err := part()
		if err != nil {
			return nil, err
		}
		all = append(all, things...)
	}
	return all, nil
}

// mounts lists the mount points of the host and of the test process. Those of
// network namespaces are among them.
func (b *Baseline) mounts() ([]string, error) {
	own, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	all := mountPoints("mount outside the lab", string(own))
	hosts, err := inMountNS(b.lab.Host.ns.mnt, func() ([]byte, error) {
		return os.ReadFile("/proc/thread-self/mountinfo")
	})
	return append(all, mountPoints("mount on the host", string(hosts))...), err
}

// mountPoints names each mount by its place, type and source.
func mountPoints(what, mountinfo string) []string {
	var all []string
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(line, " - ")
		if f := strings.Fields(before); len(f) > 4 {
			all = append(all, fmt.Sprintf("%s: %s (%s of %s)", what, f[4], f[3], strings.TrimSpace(after)))
		}
	}
	return all
}

// unixSockets lists the host's unix sockets that others can reach: those that
// listen, and bound datagram sockets. Accepted connections carry the listener's
// name, and come and go.
func (b *Baseline) unixSockets() ([]string, error) {
	var all []string
	err := b.lab.Host.Do(func() error {
		f, err := os.Open("/proc/thread-self/net/unix")
		if err != nil {
			return err
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			// Num RefCount Protocol Flags Type St Inode Path
			const listens, datagram = "00010000", "0002"
			if field := strings.Fields(lines.Text()); len(field) == 8 && (field[3] == listens || field[4] == datagram) {
				all = append(all, "unix socket "+field[7])
			}
		}
		return lines.Err()
	})
	return all, err
}

// cgroups lists the cgroups that hold no process, or one of the lab: other
// programs of the computer make cgroups too. One without a process of its own
// in a tree of somebody else's, another lab's machine say, is left out.
func (b *Baseline) cgroups() ([]string, error) {
	ours := map[string]bool{}
	for _, p := range b.lab.processes() {
		ours[fmt.Sprint(p.pid)] = true
	}
	var empty, all []string
	foreign := map[string]bool{} // trees with a process of somebody else's
	err := walkCgroups(func(path string, inside []string) {
		switch {
		case len(inside) == 0:
			empty = append(empty, path)
		case slices.ContainsFunc(inside, func(pid string) bool { return ours[pid] }):
			all = append(all, cgroupThing(path))
		default:
			for dir := path; dir != cgroupRoot; dir = filepath.Dir(dir) {
				foreign[dir] = true
			}
		}
	})
	for _, path := range empty {
		if !foreign[path] && !foreign[machineCgroup(path)] {
			all = append(all, cgroupThing(path))
		}
	}
	return all, err
}

const cgroupRoot = "/sys/fs/cgroup"

func cgroupThing(path string) string { return "cgroup " + path }

// walkCgroups calls visit for every cgroup with its own processes.
func walkCgroups(visit func(path string, pids []string)) error {
	return filepath.WalkDir(cgroupRoot, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return skipVanished(err)
		}
		if d.IsDir() {
			text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs")) // vanished: no process
			visit(path, strings.Fields(string(text)))
		}
		return nil
	})
}

// machineCgroup is the cgroup of the machine that path belongs to, path itself
// where it belongs to none.
func machineCgroup(path string) string {
	const machines = "/portolan/"
	before, after, found := strings.Cut(path, machines)
	if !found {
		return path
	}
	name, _, _ := strings.Cut(after, "/")
	return before + machines + name
}

// named lists network namespaces with a name.
func (b *Baseline) named() ([]string, error) {
	var all []string
	for _, dir := range []string{"/run/netns", "/run/docker/netns"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // nobody made any
		}
		for _, e := range entries {
			all = append(all, "network namespace "+filepath.Join(dir, e.Name()))
		}
	}
	return all, nil
}

func (b *Baseline) files() ([]string, error) {
	var all []string
	for _, dir := range b.dirs {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return skipVanished(err)
			}
			all = append(all, "file "+path)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// skipVanished forgives what ended while it was looked at.
func skipVanished(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}
