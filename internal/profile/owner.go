package profile

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// OpenFor returns the profile of that name of another user, for root. Where the
// user's programs keep their files is known from the user's home directory and
// /run/user alone: of the XDG variables root knows its own. PORTOLAN_* count.
func OpenFor(name string, u *user.User) (Profile, error) {
	if uid, err := strconv.Atoi(u.Uid); err == nil && uid == os.Geteuid() {
		return Open(name)
	}
	p, err := Open(name) // checks the name
	if err != nil {
		return Profile{}, err
	}
	dir := func(override, usual string) string {
		if dir := os.Getenv(override); dir != "" {
			return dir
		}
		return filepath.Join(usual, "portolan")
	}
	run := filepath.Join("/run/user", u.Uid)
	if _, err := os.Stat(run); err != nil {
		run = filepath.Join(u.HomeDir, ".local/run")
	}
	p.StateDir = filepath.Join(dir("PORTOLAN_STATE_DIR", filepath.Join(u.HomeDir, ".local/share")), p.Name)
	p.RunDir = filepath.Join(dir("PORTOLAN_RUNTIME_DIR", run), p.Name)
	p.ConfigDir = filepath.Join(dir("PORTOLAN_CONFIG_DIR", filepath.Join(u.HomeDir, ".config")), p.Name)
	return p, nil
}
