package connect

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/dns"
	"github.com/portolan-net/portolan/internal/machine"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
)

// EnterCommand is the hidden command of portolan that runs Enter.
const EnterCommand = "enter"

// shell describes one program that runs in the machine's network.
type shell struct {
	Link portolan.Link `json:"link"`
	// Names are those of containers, for /etc/hosts: they are for the host, and
	// the machine's resolver does not tell them.
	Names api.Names `json:"names"`
}

// Shell executes a command, whose first word is looked up on PATH, in place of
// this program and in the network of the profile's machine. It only returns when
// that fails.
//
// Root enters by itself. An ordinary user's machine lies in a user namespace,
// which only a process of one thread may enter, so no Go program: nsenter(1)
// does, and this program goes on as root of that namespace (Enter). There it
// mounts, and unshare(1) makes the user itself again of it.
func Shell(p profile.Profile, status api.Status, names api.Names, command []string) error {
	s := shell{Link: status.Link, Names: names}
	record, err := machine.LoadRecord(p)
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		runtime.LockOSThread() // the thread that executes is what the command becomes
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", record.Init.PID))
		if err != nil {
			return err
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the machine's network: %w", err)
		}
		return s.execute(command)
	}
	enter, enterErr := exec.LookPath("nsenter")
	_, unshareErr := exec.LookPath("unshare")
	if err := errors.Join(enterErr, unshareErr); err != nil {
		return fmt.Errorf("%w; as root, type: apt-get install util-linux", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	args := []string{
		enter, fmt.Sprintf("--user=/proc/%d/ns/user", record.Init.PID), fmt.Sprintf("--net=/proc/%d/ns/net", record.Init.PID),
		"--preserve-credentials", "--", self, EnterCommand, string(text), strconv.Itoa(os.Getuid()), strconv.Itoa(os.Getgid()),
	}
	return unix.Exec(enter, append(args, command...), os.Environ())
}

// Enter is the second half of an ordinary user's shell: args are those that Shell
// gives it.
func Enter(args []string) error {
	if len(args) < 4 {
		return errors.New("enter the machine: it is started by portolan, not by hand; type: portolan shell")
	}
	var s shell
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return fmt.Errorf("read description of the shell: %w", err)
	}
	runtime.LockOSThread()
	again := append([]string{"unshare", "--user", "--map-user=" + args[1], "--map-group=" + args[2], "--"}, args[3:]...)
	return s.execute(again)
}

// execute puts the resolver's files of the machine over the host's, for this
// thread and what it executes alone, and executes a command.
func (s shell) execute(args []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	if err := s.mountNames(); err != nil {
		return err
	}
	return unix.Exec(path, args, os.Environ())
}

// scratch is where the files are made that are then mounted elsewhere; every
// system has it, and nobody looks in that moment.
const scratch = "/tmp"

// mountNames gives the thread a mount namespace in which names are resolved as
// in the machine, and those of containers besides.
func (s shell) mountNames() error {
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	// What the host mounts later shows here, what is mounted here shows nowhere else.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", scratch, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	server := s.Link.DNS()
	for target, text := range map[string]string{
		"/etc/resolv.conf": fmt.Sprintf("nameserver %s\nnameserver %s\n", server.V4, server.V6),
		"/etc/hosts":       string(hosts) + s.hostLines(),
	} {
		if err := cover(target, text); err != nil {
			return err
		}
	}
	if err := muteDaemons(); err != nil {
		return err
	}
	// The files stay where they are mounted.
	if err := unix.Unmount(scratch, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount tmpfs: %w", err)
	}
	return nil
}

// cover mounts a file with that text over target, which may be a link, or not
// be there: then programs do without, and nothing can be mounted.
func cover(target, text string) error {
	own := filepath.Join(scratch, filepath.Base(target))
	if err := os.WriteFile(own, []byte(text), 0o644); err != nil {
		return err
	}
	err := unix.Mount(own, target, "", unix.MS_BIND, "")
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mount over %s: %w", target, err)
	}
	return nil
}

// muteDaemons hides the sockets by which programs would ask a resolver of the
// host's in place of the files: glibc's nss_resolve and nscd.
func muteDaemons() error {
	for _, socket := range []string{"/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/var/run/nscd/socket"} {
		err := unix.Mount("/dev/null", socket, "", unix.MS_BIND, "")
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("hide %s: %w", socket, err)
		}
	}
	return nil
}

// hostLines are the containers' names, as /etc/hosts has them.
func (s shell) hostLines() string {
	var lines []string
	for name, addrs := range s.Names {
		for _, addr := range addrs {
			lines = append(lines, fmt.Sprintf("%s %s.%s %s\n", addr, name, dns.ZoneName, name))
		}
	}
	slices.Sort(lines)
	return "\n" + strings.Join(lines, "")
}
