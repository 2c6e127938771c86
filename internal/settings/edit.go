package settings

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Change is what an edit does to one key's value in force. A subnet's can be the
// same as before, and chosen now, or no longer.
type Change struct {
	Key    Key    `json:"key"`
	Before Value  `json:"before"`
	After  Value  `json:"after"`
	From   Origin `json:"from"` // where After comes from
}

// Edit is a new text for the user's file that has been checked, and what it
// changes. Nothing is written before Store.Write.
type Edit struct {
	Text     []byte
	Changes  []Change
	Warnings []string // those that were none before
}

// Set prepares the user's file with another value. name is a key, an object of
// keys such as "proxy", whose value is JSON, or one option of the engine's.
func (s *Store) Set(name, value string) (Edit, error) {
	if isGroup(name) {
		root, err := parseTree("the value of "+name, []byte(value))
		if err != nil {
			return Edit{}, err
		}
		return s.edit(name, node{value: root}.plain())
	}
	if option, ok := engineOption(name); ok {
		return s.editOption(option, optionValue(value))
	}
	key, ok := Find(name)
	if !ok {
		return Edit{}, &NoKeyError{name}
	}
	parsed, err := key.FromText(value)
	if err != nil {
		return Edit{}, err
	}
	return s.edit(name, json.RawMessage(parsed))
}

// Unset prepares the user's file without a key, an object of keys, or one option
// of the engine's.
func (s *Store) Unset(name string) (Edit, error) {
	if option, ok := engineOption(name); ok {
		return s.editOption(option, nil)
	}
	if _, ok := Find(name); !ok && !isGroup(name) {
		return Edit{}, &NoKeyError{name}
	}
	return s.edit(name, nil)
}

// NoKeyError says that a name is no key.
type NoKeyError struct{ Name string }

func (e *NoKeyError) Error() string {
	if near := nearest(e.Name); near != "" {
		return fmt.Sprintf("setting %q: no such key; did you mean %s?", e.Name, near)
	}
	return fmt.Sprintf("setting %q: no such key; `portolan settings list` shows all", e.Name)
}

// edit puts value (nil: nothing) at the dotted name.
func (s *Store) edit(name string, value any) (Edit, error) {
	present, err := s.UserText()
	if err != nil {
		return Edit{}, err
	}
	root, err := parseTree(s.files.User, present)
	if err != nil {
		return Edit{}, fmt.Errorf("%w; correct it with: portolan settings edit", err)
	}
	tree, _ := node{value: root}.plain().(map[string]any)
	place(tree, strings.Split(name, "."), value)
	if name == KeyMode && s.valueAfter(name, value) != s.value(name) {
		place(tree, []string{KeyInhibition}, nil) // as documented: a mode begins with auto
	}
	text, err := render(tree)
	if err != nil {
		return Edit{}, err
	}
	edit, err := s.Check(text)
	if err != nil {
		return Edit{}, err
	}
	return edit, s.refuse(name, value)
}

func (s *Store) value(name string) Value {
	setting, _ := s.Snapshot().Get(name)
	return setting.Value
}

func (s *Store) valueAfter(name string, value any) Value {
	if value == nil {
		key, _ := Find(name)
		return key.Default
	}
	return encode(value)
}

// refuse says why a choice would not count.
func (s *Store) refuse(name string, value any) error {
	for _, setting := range s.Snapshot().Settings {
		if setting.Locked && (setting.Name == name || strings.HasPrefix(setting.Name, name+".")) && value != nil {
			return fmt.Errorf("%s is locked to %s by %s", setting.Name, setting.Shown(setting.Value).Text(), setting.Winner().File)
		}
	}
	if name == KeyInhibition && value != nil && !allowedIn(encode(value), s.value(KeyMode)) {
		return fmt.Errorf("%s %s: only in dual-stack, and %s is %s", name, encode(value).Text(), KeyMode, s.value(KeyMode).Text())
	}
	return nil
}

// place sets or, with nil, removes a member; objects that become empty go.
func place(tree map[string]any, path []string, value any) {
	if len(path) == 1 {
		if value == nil {
			delete(tree, path[0])
		} else {
			tree[path[0]] = value
		}
		return
	}
	inner, ok := tree[path[0]].(map[string]any)
	if !ok {
		if value == nil {
			return
		}
		inner = map[string]any{}
		tree[path[0]] = inner
	}
	place(inner, path[1:], value)
	if len(inner) == 0 {
		delete(tree, path[0])
	}
}

func render(tree map[string]any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(tree)
	return buf.Bytes(), err
}

// UserText is the user's file, an empty object where there is none.
func (s *Store) UserText() ([]byte, error) {
	t, err := s.readUser()
	if err == nil && t.path == "" {
		t.bytes = []byte("{}\n")
	}
	return t.bytes, err
}

// Check reads a text as the user's file and says what it would change.
func (s *Store) Check(text []byte) (Edit, error) {
	user, err := parseUser(s.files.User, text, s.files.CheckEngine)
	if err != nil {
		return Edit{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	edit := Edit{Text: text}
	after := resolve(user, s.admin)
	for i, setting := range s.present.Settings {
		next := after.Settings[i]
		if next.Value != setting.Value || next.Applies == Network && next.chosen() != setting.chosen() {
			edit.Changes = append(edit.Changes, Change{Key: setting.Key, Before: setting.Value, After: next.Value, From: next.Winner().Origin})
		}
	}
	for _, warning := range after.Warnings {
		if !slices.Contains(s.present.Warnings, warning) {
			edit.Warnings = append(edit.Warnings, warning)
		}
	}
	return edit, nil
}

// Preview returns the values that would be in force with a text as the user's file.
func (s *Store) Preview(text []byte) (Values, error) {
	user, err := parseUser(s.files.User, text, s.files.CheckEngine)
	if err != nil {
		return Values{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return resolve(user, s.admin).Values, nil
}

// Write puts an edit in place.
func (s *Store) Write(e Edit) error {
	if err := writeFile(s.files.User, e.Text); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}
