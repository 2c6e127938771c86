//go:build unix

package settings

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// writableByOthers are the mode bits of group and others. With an ACL the group's
// bits are its mask, so they show what the ACL allows as well (acl(5)).
const writableByOthers = 0o022

// readTrusted reads a file that nobody but owner (a uid) can have written.
func readTrusted(path string, owner uint32) ([]byte, error) {
	dir, err := os.Lstat(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if !dir.IsDir() {
		return nil, fmt.Errorf("%s is no directory itself, but a link", filepath.Dir(path))
	}
	if err := trusted(filepath.Dir(path), dir, owner); err != nil {
		return nil, err
	}
	// A FIFO must not block; a link is refused by the kernel itself.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		if info, statErr := os.Lstat(path); statErr == nil && info.Mode()&os.ModeSymlink != 0 {
			return nil, fmt.Errorf("it is a symbolic link; put the file itself there")
		}
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is no regular file")
	}
	if err := trusted(path, info, owner); err != nil {
		return nil, err
	}
	return readAll(file)
}

func trusted(path string, info os.FileInfo, owner uint32) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return fmt.Errorf("whom %s belongs to can't be told", path)
	case stat.Uid != owner:
		return fmt.Errorf("%s belongs to user %d, want %d; type: chown %d %s", path, stat.Uid, owner, owner, path)
	case info.Mode().Perm()&writableByOthers != 0:
		return fmt.Errorf("%s can be written by others (mode %04o); type: chmod go-w %s", path, info.Mode().Perm(), path)
	}
	return nil
}

// readAll bounds what is read.
func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err == nil && len(text) > maxSize {
		err = fmt.Errorf("larger than %d bytes", maxSize)
	}
	return text, err
}
