package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// probe is one kernel feature, tried in a scratch namespace.
type probe struct {
	name string
	need string // what it is for
	fix  string
	must bool
	try  func() error
}

func probes() []probe {
	link := func(l netlink.Link) func() error {
		return func() error { return netlink.LinkAdd(l) }
	}
	named := func(name string) netlink.LinkAttrs { return netlink.LinkAttrs{Name: name} }
	return []probe{
		{"veth", "the machine's link", "modprobe veth", true, link(&netlink.Veth{LinkAttrs: named("ptd0"), PeerName: "ptd1"})},
		{"bridge", "container networks", "modprobe bridge", true, link(&netlink.Bridge{LinkAttrs: named("ptdbr")})},
		{"tun", "new connections wait in it", "modprobe tun", true, tryTun},
		{"vxlan", "swarm's overlay networks", "modprobe vxlan", false, link(&netlink.Vxlan{LinkAttrs: named("ptdvx"), VxlanId: 4242, Port: 4789})},
		{"macvlan", "macvlan networks", "modprobe macvlan", false, tryMacvlan},
		{"nftables", "the router's rules", "modprobe nf_tables", true, tryTable},
		{"nftables tproxy", "the router's rules", "modprobe nft_tproxy", true, tryTProxy},
		{"nftables fib", "the router's rules", "modprobe nft_fib_inet", true, tryFib},
		{"nftables masquerade", "the machine's rules", "modprobe nft_masq", true, tryMasquerade},
		{"nftables set limit", "the router's rate limits", "modprobe nft_limit", true, tryLimit},
		{"overlayfs", "images", "modprobe overlay", true, tryOverlay},
	}
}

// kernelChecks is Kernel, for an ordinary user in a user namespace: there the
// machine will be, and there the user may try what it needs. The words are those
// with which this program prints Kernel's findings as JSON.
func kernelChecks(ctx context.Context, o Options) []Finding {
	if os.Geteuid() == 0 || o.AsRoot == nil {
		return ownKernelChecks()
	}
	const name = "user namespace"
	const fix = "type what it says; more is in docs/rootless.md"
	text, err := o.AsRoot(ctx, "doctor", "--kernel")
	if err != nil {
		return []Finding{bad(Fail, name, err, fix)}
	}
	var findings []Finding
	if err := json.Unmarshal(text, &findings); err != nil {
		return []Finding{bad(Fail, name, fmt.Errorf("read findings: %w", err), "portolan version")}
	}
	return append([]Finding{ok(name, "with the user's subordinate ids")}, findings...)
}

func ownKernelChecks() []Finding {
	findings, err := Kernel()
	switch {
	case errors.Is(err, unix.EPERM):
		return []Finding{bad(Warn, "kernel", errors.New("features not checked: that needs root"), "sudo portolan doctor")}
	case err != nil:
		return []Finding{bad(Fail, "kernel namespaces", err, "use a kernel with network and mount namespaces; in a container: --privileged")}
	}
	return findings
}

// Kernel tries every feature on one thread in namespaces of its own, which end
// with the thread. An error means that there are no such namespaces.
func Kernel() (findings []Finding, err error) {
	onSpareThread(func() { findings, err = inScratch() })
	return findings, err
}

// onSpareThread runs f on a thread that ends with it. The main thread can't end,
// and /proc/self shows its namespaces, so there f goes to another one.
func onSpareThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the runtime ends a thread whose goroutine ends so, and
		// with it the namespaces.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onSpareThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

func inScratch() ([]Finding, error) {
	if err := unshare(); err != nil {
		return nil, err
	}
	findings := []Finding{ok("kernel namespaces", "%s", release())}
	for _, p := range probes() {
		err := p.try()
		switch {
		case err == nil:
			findings = append(findings, ok("kernel "+p.name, "works"))
		case p.must:
			findings = append(findings, bad(Fail, "kernel "+p.name, fmt.Errorf("needed for %s: %w", p.need, err), p.fix))
		default:
			findings = append(findings, bad(Warn, "kernel "+p.name, fmt.Errorf("without it no %s: %w", p.need, err), p.fix))
		}
	}
	return findings, nil
}

// unshare gives the thread network and mount namespaces from which nothing
// leaks out. A machine needs the others as well, so they are asked for too.
func unshare() error {
	const all = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
	if err := unix.Unshare(all); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	for _, ns := range []string{"pid", "user"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			return fmt.Errorf("find namespace: %w", err)
		}
	}
	return os.NewSyscallError("mount", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}

func release() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "Linux"
	}
	return "Linux " + unix.ByteSliceToString(name.Release[:])
}

func tryTun() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("ptdtun")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, req))
}

func tryMacvlan() error {
	parent, err := netlink.LinkByName("ptd0") // the veth of the first probe
	if err != nil {
		return fmt.Errorf("find a parent: %w", err)
	}
	return netlink.LinkAdd(&netlink.Macvlan{
		LinkAttrs: netlink.LinkAttrs{Name: "ptdmv", ParentIndex: parent.Attrs().Index},
		Mode:      netlink.MACVLAN_MODE_BRIDGE,
	})
}

// tryOverlay mounts an overlay of a tmpfs, both in the scratch mount namespace.
func tryOverlay() (err error) {
	base, err := os.MkdirTemp("", "portolan-doctor-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(base)) }()
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, "size=1m"); err != nil {
		return os.NewSyscallError("mount tmpfs", err)
	}
	defer func() { err = errors.Join(err, os.NewSyscallError("umount", unix.Unmount(base, unix.MNT_DETACH))) }()
	options := []string{}
	for _, dir := range []string{"lowerdir", "upperdir", "workdir"} {
		path := filepath.Join(base, dir)
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		options = append(options, dir+"="+path)
	}
	merged := filepath.Join(base, "merged")
	if err := os.Mkdir(merged, 0o700); err != nil {
		return err
	}
	return os.NewSyscallError("mount overlay", unix.Mount("overlay", merged, "overlay", 0, strings.Join(options, ",")))
}
