package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/portolan-net/portolan/internal/confine"
	"github.com/portolan-net/portolan/internal/daemon/deputy"
	"github.com/portolan-net/portolan/internal/machine"
	"github.com/portolan-net/portolan/internal/profile"
)

// confine starts the deputy and then takes from this process what carrying
// traffic does not need; docs/security.md has the list. The machine runs
// already: from here on no program can be started.
func (d *daemon) confine() (err error) {
	if d.deputy, err = deputy.Start(d.spec, d.Log.With("part", "deputy")); err != nil {
		return err
	}
	files := keptFiles(d.Profile)
	if group := machine.MemoryGroup(d.spec); group != "" {
		files.Read = append(files.Read, group)
	}
	inForce, err := confine.Apply(confine.Policy{
		// Published ports below 1024, and ping where the host has no ping sockets.
		Keep:  []cap.Value{cap.NET_BIND_SERVICE, cap.NET_RAW},
		Files: &files,
	})
	if err == nil {
		err = reachable(d.Profile)
	}
	if err != nil {
		d.deputy.Close()
		return fmt.Errorf("confine daemon: %w", err)
	}
	d.Log.Info("daemon confined", "kept", inForce)
	return nil
}

// keptFiles are the paths that a daemon needs. What another part of the daemon
// opens belongs here, and a directory must be there by now.
func keptFiles(p profile.Profile) confine.Files {
	read := []string{
		"/etc", "/proc",
		// Where the resolver's file is on most systems, whatever /etc leads to today.
		"/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf", "/run/connman", "/run/netconfig",
		// What everybody may read: certificates, to which /etc leads, time zones, an administrator's settings.
		"/usr/share", "/usr/local/share/ca-certificates", "/var/lib/ca-certificates",
	}
	for _, path := range []string{"/etc/resolv.conf", "/etc/hosts", p.SettingsFile()} {
		read = append(read, confine.WhereFrom(path)...)
	}
	return confine.Files{
		Read:  read,
		Write: []string{p.RunDir, p.StateDir, p.LogDir()},
		Use:   []string{"/dev/null"},
		Prune: []string{"/sys/fs/cgroup"}, // of a machine that has to be killed
	}
}

// openNamesTime bounds the wait for a deputy that is busy: queries wait, too.
const openNamesTime = time.Second

// openNames opens a name file of the host. One that has become a link to a place
// which is not kept, the deputy opens.
func (d *daemon) openNames(ctx context.Context, path string) (*os.File, error) {
	file, err := os.Open(path)
	if !errors.Is(err, os.ErrPermission) {
		return file, err
	}
	ctx, cancel := context.WithTimeout(ctx, openNamesTime)
	defer cancel()
	return d.deputy.OpenNames(ctx, path)
}

// reachable says early what would fail later: without its capabilities root is
// bound by the permissions of directories, as everybody is.
func reachable(p profile.Profile) error {
	for _, dir := range []string{p.RunDir, p.StateDir, p.LogDir()} {
		if _, err := os.ReadDir(dir); err != nil {
			return errors.Join(err, errors.New("the directory must belong to the user who runs Portolan, and the way to it be open to that user"))
		}
	}
	return nil
}
