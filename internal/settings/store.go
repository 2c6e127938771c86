package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"syscall"
)

// AdminFiles are where an administrator's file is looked for; the first that
// exists counts. The second is Docker Desktop's on Linux.
func AdminFiles() []string {
	return []string{"/etc/portolan/admin-settings.json", "/usr/share/docker-desktop/admin-settings.json"}
}

// Files says where everything is.
type Files struct {
	User  string   // settings.json of a profile; need not exist
	Admin []string // see AdminFiles
	Owner uint32   // the uid that an admin file must belong to: root's
	// Good is the directory of the last good copies: read by everybody, written
	// by a Store with Remember.
	Good     string
	Remember bool
	// Repair takes a user's file that is bad for none, so that it can be edited.
	Repair bool
	// CheckEngine refuses engine options that Portolan sets itself; nil allows all.
	CheckEngine func(options map[string]any) error
}

// Store holds the settings of one profile. Its methods are safe for concurrent
// use.
type Store struct {
	files Files

	mu          sync.Mutex // guards what follows
	user, admin layer      // in force
	present     *Snapshot
}

// Open reads the files. It fails when one is bad and no good copy of it is left:
// settings other than somebody asked for are worse than none.
func Open(files Files) (*Store, error) {
	s := &Store{files: files}
	var problems []string
	var err error
	if s.admin, problems, err = s.open(s.readAdmin, parseAdmin, goodAdmin, problems); err != nil {
		return nil, fmt.Errorf("read admin settings: %w", err)
	}
	user, told, err := s.open(s.readUser, parseUser, goodUser, problems)
	if err != nil && !files.Repair {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	if err == nil {
		s.user, problems = user, told
	}
	s.present = resolve(s.user, s.admin)
	s.present.Problems = problems
	return s, nil
}

// Snapshot is the present state.
func (s *Store) Snapshot() *Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.present
}

// Reload reads the files again and reports whether anything changed. A bad file
// leaves its last good state in force.
func (s *Store) Reload() (*Snapshot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var problems []string
	s.admin, problems = s.again(s.admin, s.readAdmin, parseAdmin, goodAdmin, problems)
	s.user, problems = s.again(s.user, s.readUser, parseUser, goodUser, problems)
	next := resolve(s.user, s.admin)
	next.Problems = problems
	if reflect.DeepEqual(next, s.present) {
		return s.present, false
	}
	s.present = next
	return next, true
}

// text is a file as it was read; path "" means that there is none.
type text struct {
	path  string
	bytes []byte
}

type (
	reader func() (text, error)
	parser func(path string, text []byte, check engineCheck) (layer, error)
)

// open reads one file at a start.
func (s *Store) open(read reader, parse parser, good string, problems []string) (layer, []string, error) {
	l, err := s.load(read, parse, good)
	if err == nil {
		return l, problems, nil
	}
	kept, keptErr := s.recall(good)
	if keptErr == nil {
		if l, keptErr = parse(kept.path, kept.bytes, s.files.CheckEngine); keptErr == nil {
			return l, append(problems, problem(err)), nil
		}
	}
	return layer{}, nil, err
}

// again reads one file later on.
func (s *Store) again(last layer, read reader, parse parser, good string, problems []string) (layer, []string) {
	l, err := s.load(read, parse, good)
	if err != nil {
		return last, append(problems, problem(err))
	}
	return l, problems
}

func problem(err error) string {
	return fmt.Sprintf("settings: %v; the last good state is in force, correct the file", err)
}

func (s *Store) load(read reader, parse parser, good string) (layer, error) {
	t, err := read()
	if err != nil {
		return layer{}, err
	}
	if t.path == "" {
		return layer{}, s.remember(good, t)
	}
	l, err := parse(t.path, t.bytes, s.files.CheckEngine)
	if err != nil {
		return layer{}, err
	}
	return l, s.remember(good, t)
}

func (s *Store) readUser() (text, error) {
	bytes, err := readFile(s.files.User)
	if errors.Is(err, fs.ErrNotExist) {
		return text{}, nil
	}
	return text{s.files.User, bytes}, err
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &FileError{Path: path, Text: "no regular file"}
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	bytes, err := readAll(file)
	if err != nil {
		return nil, &FileError{Path: path, Text: err.Error()}
	}
	return bytes, nil
}

func (s *Store) readAdmin() (text, error) {
	for _, path := range s.files.Admin {
		_, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		var bytes []byte
		if err == nil {
			bytes, err = readTrusted(path, s.files.Owner)
		}
		if err != nil {
			return text{}, &FileError{Path: path, Text: err.Error()}
		}
		return text{path, bytes}, nil
	}
	return text{}, nil
}

// The last good copies.
const (
	goodUser  = "settings.good.json"
	goodAdmin = "admin-settings.good.json"
)

// kept is the form of a last good copy.
type kept struct {
	Path string `json:"path"` // of the file that it is a copy of
	Text string `json:"text"`
}

// remember keeps a good text. Without a file there is nothing to go back to.
func (s *Store) remember(name string, t text) error {
	if !s.files.Remember {
		return nil
	}
	path := filepath.Join(s.files.Good, name)
	if t.path == "" {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget settings: %w", err)
		}
		return nil
	}
	if before, err := s.recall(name); err == nil && before.path == t.path && slices.Equal(before.bytes, t.bytes) {
		return nil
	}
	copied, err := json.Marshal(kept{t.path, string(t.bytes)})
	if err != nil {
		return err
	}
	if err := writeFile(path, copied); err != nil {
		return fmt.Errorf("keep settings: %w", err)
	}
	return nil
}

func (s *Store) recall(name string) (text, error) {
	bytes, err := os.ReadFile(filepath.Join(s.files.Good, name))
	if err != nil {
		return text{}, err
	}
	var k kept
	if err := json.Unmarshal(bytes, &k); err != nil {
		return text{}, err
	}
	return text{k.Path, []byte(k.Text)}, nil
}

// Validate reads a file as a user's or, when it has the version of one, as an
// admin file, and returns its warnings.
func Validate(path string, check func(map[string]any) error) (warnings []string, err error) {
	bytes, err := readFile(path)
	if err != nil {
		return nil, err
	}
	root, err := parseTree(path, bytes)
	if err != nil {
		return nil, err
	}
	parse := parseUser
	if _, admin := root.get("configurationFileVersion"); admin {
		parse = parseAdmin
	}
	l, err := parse(path, bytes, check)
	return l.warnings, err
}

// writeFile replaces path as a whole; where it is a link, what it leads to.
func writeFile(path string, text []byte) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = temp.Write(text)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temp.Name()) // the error says enough
	}
	return err
}
