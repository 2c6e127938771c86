package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// wantFiles is what 20,000 associations and as many connections need.
	wantFiles = 65536
	// lowSpace and noSpace: a few images, and not even one.
	lowSpace = 5 << 30
	noSpace  = 500 << 20
	// wantPort is the lowest that people publish, HTTP's.
	wantPort = 80
)

func systemChecks() []check {
	return []check{
		one(userCheck), kernelChecks, one(tunCheck), one(cgroupCheck), toolChecks,
		one(filesCheck), one(pingCheck), one(lowPortCheck), one(ipv6Check), one(stateCheck),
	}
}

// one makes a check of a function with a single finding.
func one(f func(o Options) Finding) check {
	return func(_ context.Context, o Options) []Finding { return []Finding{f(o)} }
}

func userCheck(Options) Finding {
	if uid := os.Geteuid(); uid != 0 {
		return ok("user", "uid %d: the machine is in user namespaces", uid)
	}
	return ok("user", "root")
}

// lowPortCheck tells an ordinary user from which port on -p works.
func lowPortCheck(Options) Finding {
	const name = "low ports"
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	first, parseErr := strconv.Atoi(strings.TrimSpace(string(text)))
	switch {
	case os.Geteuid() == 0:
		return ok(name, "root may publish every port")
	case err != nil || parseErr != nil:
		return bad(Warn, name, errors.Join(err, parseErr), "mount -t proc proc /proc")
	case first > wantPort:
		return bad(Warn, name, fmt.Errorf("ports below %d can't be published: the host keeps them for root", first),
			fmt.Sprintf("as root: sysctl -w net.ipv4.ip_unprivileged_port_start=%d", wantPort))
	}
	return ok(name, "%d and above can be published", first)
}

// tunCheck needs the device only: what can be done with it is for the scratch
// namespace.
func tunCheck(Options) Finding {
	const device = "/dev/net/tun"
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	if err == nil {
		_ = file.Close()
	}
	fix := "modprobe tun; mkdir -p /dev/net; mknod -m 0666 /dev/net/tun c 10 200   (in a container: --device /dev/net/tun)"
	if errors.Is(err, os.ErrPermission) {
		fix = "as root: chmod 0666 /dev/net/tun"
	}
	return verdict("tun device", device, err, fix)
}

// cgroupCheck reads what is mounted: v2 alone, v1, or both.
func cgroupCheck(Options) Finding {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return bad(Fail, "cgroups", err, "mount -t proc proc /proc")
	}
	v1, v2 := parseCgroups(string(text))
	missing := v1.missing("cpu", "cpuset", "memory", "devices", "freezer", "pids", "blkio")
	switch {
	case len(v1) > 0 && len(missing) > 0:
		return bad(Warn, "cgroups", fmt.Errorf("v1 without %s", strings.Join(missing, ", ")), "mount -t cgroup -o "+missing[0]+" cgroup /sys/fs/cgroup/"+missing[0])
	case len(v1) > 0:
		return ok("cgroups", "v1")
	case v2:
		return ok("cgroups", "v2")
	}
	return bad(Fail, "cgroups", errors.New("no cgroup file system is mounted"), "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
}

// controllers are the mounted cgroup v1 controllers.
type controllers map[string]bool

func (c controllers) missing(names ...string) []string {
	var missing []string
	for _, name := range names {
		if !c[name] {
			missing = append(missing, name)
		}
	}
	return missing
}

// parseCgroups reads proc_pid_mountinfo(5): after " - " come the type, the
// source and the superblock's options, among them v1's controllers.
func parseCgroups(mountinfo string) (v1 controllers, v2 bool) {
	v1 = controllers{}
	for line := range strings.Lines(mountinfo) {
		_, rest, _ := strings.Cut(line, " - ")
		fields := strings.Fields(rest)
		switch {
		case len(fields) < 3:
		case fields[0] == "cgroup2":
			v2 = true
		case fields[0] == "cgroup" && !strings.Contains(fields[2], "name="):
			for option := range strings.SplitSeq(fields[2], ",") {
				v1[option] = true
			}
		}
	}
	delete(v1, "rw")
	return v1, v2
}

func toolChecks(_ context.Context, o Options) []Finding {
	tool := func(result Result, fix string, names ...string) Finding {
		for _, name := range names {
			for _, dir := range slices.Concat([]string{""}, o.EngineDirs, o.ToolDirs) {
				if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
					return ok(names[0], "%s", path)
				}
			}
		}
		return bad(result, names[0], errors.New("not found on PATH"), fix)
	}
	return []Finding{
		tool(Fail, "apt-get install iptables   (the engine uses it inside the machine)", "iptables"),
		tool(Warn, "apt-get install iptables   (for IPv6 networks of the engine)", "ip6tables"),
		tool(Warn, "make cli   (in Portolan's source), or install the docker CLI", "docker"),
		tool(Warn, "apt-get install tini   (for docker run --init)", "docker-init", "tini-static", "tini"),
	}
}

func filesCheck(Options) Finding {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return bad(Warn, "descriptors", os.NewSyscallError("getrlimit", err), "ulimit -n")
	}
	if limit.Max < wantFiles {
		return bad(Warn, "descriptors", fmt.Errorf("at most %d: each flow takes two", limit.Max), fmt.Sprintf("ulimit -Hn %d   (or LimitNOFILE= of the service)", wantFiles))
	}
	return ok("descriptors", "up to %d", limit.Max)
}

// pingCheck opens what the daemon opens for ICMP echo, see icmp(7),
// ping_group_range.
func pingCheck(Options) Finding {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil && os.Geteuid() == 0 {
		return rawPing()
	}
	if err != nil {
		return bad(Warn, "ping", fmt.Errorf("this group may not ping: %w", os.NewSyscallError("socket", err)), "as root: sysctl -w net.ipv4.ping_group_range='0 2147483647'")
	}
	_ = unix.Close(fd)
	return ok("ping", "allowed by net.ipv4.ping_group_range")
}

// rawPing is what the daemon does instead as root.
func rawPing() Finding {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return bad(Warn, "ping", os.NewSyscallError("socket", err), "sysctl -w net.ipv4.ping_group_range='0 2147483647'   (in a container: --cap-add NET_RAW)")
	}
	_ = unix.Close(fd)
	return ok("ping", "root may, by raw sockets")
}

func ipv6Check(Options) Finding {
	fix := "sysctl -w net.ipv6.conf.all.disable_ipv6=0   (containers have IPv4 without it)"
	conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		return bad(Warn, "IPv6", err, fix)
	}
	_ = conn.Close()
	return ok("IPv6", "enabled")
}

// stateCheck looks at the nearest directory that exists, and makes none.
func stateCheck(o Options) Finding {
	dir := o.Profile.StateDir
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	const fix = "choose another place: export PORTOLAN_STATE_DIR=/big/disk/portolan"
	var fs unix.Statfs_t
	err := unix.Access(dir, unix.W_OK|unix.X_OK)
	if err == nil {
		err = unix.Statfs(dir, &fs)
	}
	if err != nil {
		return bad(Fail, "state directory", fmt.Errorf("write to %s: %w", dir, err), fix)
	}
	free := fs.Bavail * uint64(fs.Bsize)
	detail := fmt.Sprintf("%s, %.1f GB free", o.Profile.StateDir, float64(free)/1e9)
	switch {
	case free < noSpace:
		return bad(Fail, "state directory", errors.New(detail), fix)
	case free < lowSpace:
		return bad(Warn, "state directory", errors.New(detail), fix)
	}
	return ok("state directory", "%s", detail)
}
