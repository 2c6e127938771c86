package dockercontext

// config.json belongs to the user and to other programs (credentials, plugins,
// themes of keys that we never heard of). So it is not decoded and encoded
// again: the one member currentContext is found by its place in the text and
// replaced, added or cut out there. Every other byte stays.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const currentKey = "currentContext"

// member is one member of config.json's top-level object: text[start:end] is
// from the quote that opens the key to the last byte of the value.
type member struct {
	key        string
	start, end int
	value      json.RawMessage
}

// Current returns the current context's name, "" for the default one.
func (d Dir) Current() (string, error) {
	text, err := os.ReadFile(d.configFile())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read docker's configuration: %w", err)
	}
	var current string
	members, err := d.members(text)
	if err != nil {
		return "", err
	}
	for _, m := range members {
		if strings.EqualFold(m.key, currentKey) && json.Unmarshal(m.value, &current) != nil {
			return "", fmt.Errorf("read %s: currentContext is %s, want a string", d.configFile(), m.value)
		}
	}
	return current, nil
}

// SetCurrent makes name the current context; "" means the default one. A
// config.json that is not JSON is left alone and is an error.
func (d Dir) SetCurrent(name string) error {
	// The docker CLI follows a symbolic link here as well.
	path, err := filepath.EvalSymlinks(d.configFile())
	if errors.Is(err, fs.ErrNotExist) {
		path, err = d.configFile(), nil
	}
	if err != nil {
		return fmt.Errorf("find docker's configuration: %w", err)
	}
	mode := fs.FileMode(0o600)
	text, err := os.ReadFile(path)
	switch info, statErr := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		text = []byte("{}\n")
	case err != nil || statErr != nil:
		return fmt.Errorf("read docker's configuration: %w", errors.Join(err, statErr))
	default:
		mode = info.Mode().Perm()
	}
	members, err := d.members(text)
	if err != nil {
		return err
	}
	changed := edit(text, members, name)
	if bytes.Equal(changed, text) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write docker's configuration: %w", err)
	}
	if err := writeAtomic(path, changed, mode); err != nil {
		return fmt.Errorf("write docker's configuration: %w", err)
	}
	return nil
}

func (d Dir) configFile() string { return filepath.Join(string(d), "config.json") }

// members finds the members of the object that text holds. Empty text is an
// object without members, as for the docker CLI.
func (d Dir) members(text []byte) ([]member, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	members, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w; mend the file, docker can't read it either", d.configFile(), err)
	}
	return members, nil
}

func parse(text []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.Join(err, errors.New("want a JSON object"))
	}
	var members []member
	for dec.More() {
		start := int(dec.InputOffset())
		start += bytes.IndexByte(text[start:], '"')
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		m := member{start: start}
		m.key, _ = key.(string) // a JSON object has no other keys
		if err := dec.Decode(&m.value); err != nil {
			return nil, err
		}
		m.end = int(dec.InputOffset())
		members = append(members, m)
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is text after the JSON object")
	}
	return members, nil
}

// edit returns text with the current context set to name, or without one.
func edit(text []byte, members []member, name string) []byte {
	var ours []member
	for _, m := range members {
		if strings.EqualFold(m.key, currentKey) {
			ours = append(ours, m)
		}
	}
	value, _ := json.Marshal(name) // a string always has an encoding
	pair := append([]byte(`"`+currentKey+`": `), value...)
	switch {
	case name != "" && len(ours) > 0:
		// Of several, the last one counts.
		last := ours[len(ours)-1]
		return splice(text, last.start, last.end, pair)
	case name != "" && len(members) > 0:
		first := members[0].start
		indent := text[bytes.LastIndexByte(text[:first], '{')+1 : first]
		return splice(text, first, first, append(append(pair, ','), indent...))
	case name != "":
		return []byte("{\n\t" + string(pair) + "\n}\n")
	}
	for i, m := range slices.Backward(members) {
		if strings.EqualFold(m.key, currentKey) {
			text = cut(text, members, i)
			members = append(members[:i:i], members[i+1:]...)
		}
	}
	return text
}

// cut removes member i with one of the commas beside it.
func cut(text []byte, members []member, i int) []byte {
	switch {
	case i+1 < len(members):
		return splice(text, members[i].start, members[i+1].start, nil)
	case i > 0:
		return splice(text, members[i-1].end, members[i].end, nil)
	}
	return splice(text, members[i].start, members[i].end, nil)
}

// splice returns text with [start, end) replaced.
func splice(text []byte, start, end int, by []byte) []byte {
	return append(append(append([]byte{}, text[:start]...), by...), text[end:]...)
}
