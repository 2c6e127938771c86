package system

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxLinks is how many symbolic links a path may pass (path_resolution(7)).
const maxLinks = 40

// WatchDirs lists the directories in which a new, renamed or removed entry can
// change what path leads to: those that hold a symbolic link on the way, and the
// one that holds the file. Where the way ends early it is the last directory that
// exists. path must be absolute.
func WatchDirs(path string) []string {
	root := filepath.VolumeName(path) + string(filepath.Separator)
	dir, rest := root, components(path)
	var dirs []string
	note := func() {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			dir = filepath.Dir(dir) // dir passes no link, so its parent is lexical
			continue
		}
		next := filepath.Join(dir, name)
		info, err := os.Lstat(next)
		if err != nil {
			note()
			return dirs
		}
		if info.Mode()&os.ModeSymlink == 0 {
			if len(rest) == 0 || !info.IsDir() {
				note()
				return dirs
			}
			dir = next
			continue
		}
		note()
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return dirs
		}
		if filepath.IsAbs(target) {
			dir = root
		}
		rest = append(components(target), rest...)
	}
	return dirs
}

// components splits a path; empty and "." parts go.
func components(path string) []string {
	path = filepath.ToSlash(strings.TrimPrefix(path, filepath.VolumeName(path)))
	return slices.DeleteFunc(strings.Split(path, "/"), func(part string) bool {
		return part == "" || part == "."
	})
}
