package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/portolan-net/portolan/internal/profile"
)

// purgeState deletes the profile's state directory and nothing else. Where
// something is mounted below it, what is mounted is not ours to delete, so that
// is an error and nothing is deleted. remove deletes a directory.
func purgeState(p profile.Profile, remove func(dir string) error) error {
	info, err := os.Lstat(p.StateDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("delete state: %w", err)
	case !info.IsDir() || filepath.Base(p.StateDir) != p.Name:
		return fmt.Errorf("delete state %s: it is no directory of this profile; delete it by hand", p.StateDir)
	}
	mounts, err := mountsBelow(p.StateDir)
	if err != nil {
		return fmt.Errorf("delete state: %w", err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("delete state: something is mounted at %s; type: umount %s", strings.Join(mounts, " and "), strings.Join(mounts, " "))
	}
	if err := remove(p.StateDir); err != nil {
		return fmt.Errorf("delete state: %w", err)
	}
	return nil
}

// mountsBelow reads proc_pid_mountinfo(5). Without /proc there is no machine,
// and nothing of it is mounted.
func mountsBelow(dir string) ([]string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseMounts(string(text), real), nil
}

// parseMounts returns the mount points at or below dir, the deepest first.
func parseMounts(mountinfo, dir string) []string {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var found []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape.Replace(fields[4])
		if point == dir || strings.HasPrefix(point, dir+"/") {
			found = append([]string{point}, found...)
		}
	}
	return found
}
