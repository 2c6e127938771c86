// Package logs reads the log files of a profile as one: merged by time, each
// line with the name of its source, and followed through rotation. Only the CLI
// uses it.
//
// # Theory of operation
//
// A log is text that only grows, until it is truncated to nothing or its file
// is renamed and a new one takes its name. Read sorts what is there by the
// time= stamp that slog, dockerd and containerd write; a line without one (a
// panic's stack) belongs to the line before it. Follow reads each file from
// where Read stopped. Its directory is watched, and on every change each file
// is asked: is there more? Is it shorter than what was read: start again. Is
// its name another file now: read the rest of the old one, then the new one.
package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Sources are the logs that a profile has, each SOURCE.log in its directory.
func Sources() []string {
	return []string{"daemon", "helper", "agent", "engine", "containerd", "connect"}
}

// Line is one line of one log, without its end.
type Line struct {
	Source string `json:"source"`
	Text   string `json:"text"`
}

// maxRead bounds how much of a log's end Read looks at.
const maxRead = 8 << 20

// Reader reads the logs of one directory. It is for one goroutine.
type Reader struct {
	dir   string
	files []*file
}

// file is one log as far as it was read.
type file struct {
	source  string
	open    *os.File // nil until it exists
	offset  int64
	partial []byte // the start of a line whose end is not yet written
}

// Open returns a reader of the named sources. Logs need not exist yet.
func Open(dir string, sources []string) *Reader {
	r := &Reader{dir: dir}
	for _, source := range sources {
		r.files = append(r.files, &file{source: source})
	}
	return r
}

// Close closes the files.
func (r *Reader) Close() {
	for _, f := range r.files {
		f.close()
	}
}

// Read returns the last n lines of all logs together, oldest first; all of them
// when n is negative.
func (r *Reader) Read(n int) ([]Line, error) {
	type stamped struct {
		Line
		at time.Time
	}
	var all []stamped
	for _, f := range r.files {
		lines, err := f.more(r.path(f))
		if err != nil {
			return nil, err
		}
		var at time.Time
		for _, text := range lines {
			if t, ok := stamp(text); ok {
				at = t
			}
			all = append(all, stamped{Line{f.source, text}, at})
		}
	}
	slices.SortStableFunc(all, func(a, b stamped) int { return a.at.Compare(b.at) })
	if n >= 0 && len(all) > n {
		all = all[len(all)-n:]
	}
	lines := make([]Line, len(all))
	for i, s := range all {
		lines[i] = s.Line
	}
	return lines, nil
}

func (r *Reader) path(f *file) string { return filepath.Join(r.dir, f.source+".log") }

// more returns the complete lines that were written since the last call.
func (f *file) more(path string) ([]string, error) {
	var lines []string
	for {
		if f.open == nil {
			opened, err := os.Open(path)
			if errors.Is(err, fs.ErrNotExist) {
				return lines, nil
			}
			if err != nil {
				return lines, fmt.Errorf("open log: %w", err)
			}
			f.open = opened
			f.skip()
		}
		read, err := f.drain()
		if lines = append(lines, read...); err != nil {
			return lines, err
		}
		if !f.replaced(path) {
			return lines, nil
		}
		// Between drain and replaced the old file's writer may have had a last
		// word.
		read, err = f.drain()
		if lines = append(lines, read...); err != nil {
			return lines, err
		}
		f.close()
	}
}

// skip leaves out what is too long ago in a log that is opened first.
func (f *file) skip() {
	if info, err := f.open.Stat(); err == nil && info.Size() > maxRead {
		f.offset = info.Size() - maxRead
	}
}

// drain reads to the end of the open file.
func (f *file) drain() ([]string, error) {
	info, err := f.open.Stat()
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	if info.Size() < f.offset { // truncated
		f.offset, f.partial = 0, nil
	}
	text := make([]byte, info.Size()-f.offset)
	n, err := f.open.ReadAt(text, f.offset)
	if n < len(text) && err != nil && info.Size() > f.offset && n == 0 {
		return nil, fmt.Errorf("read log: %w", err)
	}
	f.offset += int64(n)
	f.partial = append(f.partial, text[:n]...)
	end := bytes.LastIndexByte(f.partial, '\n') + 1
	var lines []string
	for line := range strings.Lines(string(f.partial[:end])) {
		lines = append(lines, strings.TrimRight(line, "\r\n"))
	}
	f.partial = bytes.Clone(f.partial[end:])
	return lines, nil
}

// replaced says whether the name belongs to another file now.
func (f *file) replaced(path string) bool {
	now, err := os.Stat(path)
	if err != nil {
		return false // renamed, and no new one yet: more may still come
	}
	ours, err := f.open.Stat()
	return err == nil && !os.SameFile(now, ours)
}

func (f *file) close() {
	if f.open != nil {
		_ = f.open.Close()
	}
	f.open, f.offset, f.partial = nil, 0, nil
}

// stamp reads the time of a line in logfmt.
func stamp(text string) (time.Time, bool) {
	value, found := strings.CutPrefix(text, "time=")
	if !found {
		return time.Time{}, false
	}
	value, _, _ = strings.Cut(value, " ")
	t, err := time.Parse(time.RFC3339Nano, strings.Trim(value, `"`))
	return t, err == nil
}
