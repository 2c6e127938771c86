package confine

import (
	"os"
	"path/filepath"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// Files are the paths a process keeps, each with all below it. Nothing can be
// executed. Where a path does not exist nothing is granted.
type Files struct {
	Read  []string // files and directories
	Write []string // directories; read, too
	Use   []string // files to read and write, but not to make or remove: /dev/null
	Prune []string // directories whose subdirectories may be listed and removed
}

// restrict uses what the kernel knows of Landlock's fifth version (Linux 6.10),
// the newest that knows everything asked for here, and returns the version used.
// A newer one is not asked for: what it restricts in addition is not in Files.
func (f *Files) restrict() (int, error) {
	const wanted = 5
	abi, err := ll.LandlockGetABIVersion()
	if err != nil || abi < 1 {
		return 0, nil // not built in, or switched off: not an error here
	}
	const readRights = ll.AccessFSReadFile | ll.AccessFSReadDir
	var rules []landlock.Rule
	for _, path := range f.Read {
		rights := landlock.AccessFSSet(ll.AccessFSReadFile)
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			rights = readRights
		}
		rules = append(rules, landlock.PathAccess(rights, path).IgnoreIfMissing())
	}
	rules = append(rules,
		landlock.PathAccess(readRights|ll.AccessFSWriteFile|ll.AccessFSTruncate|ll.AccessFSMakeReg|ll.AccessFSMakeDir|
			ll.AccessFSMakeSock|ll.AccessFSRemoveFile|ll.AccessFSRemoveDir, f.Write...).IgnoreIfMissing(),
		landlock.PathAccess(ll.AccessFSReadFile|ll.AccessFSWriteFile, f.Use...).IgnoreIfMissing(),
		landlock.PathAccess(ll.AccessFSReadDir|ll.AccessFSRemoveDir, f.Prune...).IgnoreIfMissing(),
	)
	return min(abi, wanted), landlock.V5.BestEffort().RestrictPaths(rules...)
}

// WhereFrom returns the directories in which path's file is found through its
// symbolic links, for Files.Read: a file that is replaced by renaming is another
// file, so its directory must be readable. A directory that is not there yet is
// stood in for by the nearest one that is, but never by the root.
func WhereFrom(path string) []string {
	dirs := []string{filepath.Dir(path)}
	for range 40 { // as many links as the kernel follows (path_resolution(7))
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
		dir := filepath.Dir(path)
		for dir != "/" {
			if _, err := os.Stat(dir); err == nil {
				dirs = append(dirs, dir)
				break
			}
			dir = filepath.Dir(dir)
		}
	}
	return dirs
}
