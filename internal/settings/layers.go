package settings

import (
	"fmt"
	"slices"
	"strings"
)

// entry is what one file says about one key.
type entry struct {
	value  Value
	line   int
	locked bool // an admin file's
}

// layer is what one file says. The zero layer says nothing.
type layer struct {
	path     string
	entries  map[string]entry
	warnings []string
}

func (l *layer) warn(line int, key, text string) {
	l.warnings = append(l.warnings, (&FileError{Path: l.path, Line: line, Key: key, Text: text}).Error())
}

// put notes a key's value, or says what is wrong with it.
func (l *layer) put(name string, n node, line int, locked bool, check engineCheck) error {
	key, _ := Find(name)
	value, wrong := key.value(n)
	if wrong == "" && key.Type == Options && check != nil {
		if err := check(value.options()); err != nil {
			wrong = err.Error()
		}
	}
	if wrong != "" {
		return &FileError{Path: l.path, Line: line, Key: name, Text: wrong}
	}
	l.entries[name] = entry{value: value, line: line, locked: locked}
	return nil
}

// engineCheck refuses engine options that Portolan sets itself.
type engineCheck func(options map[string]any) error

// stranger warns of a key that is none.
func (l *layer) stranger(name string, line int) {
	if slices.Contains(unused(), name) {
		l.warn(line, name, "Docker Desktop's, does not concern networking here: not used")
		return
	}
	text := "unknown, not used"
	if near := nearest(name); near != "" {
		text += "; did you mean " + near + "?"
	}
	l.warn(line, name, text)
}

// nearest finds a key that differs in letter case, or has the same last part.
func nearest(name string) string {
	last := name[strings.LastIndexByte(name, '.')+1:]
	for _, k := range Keys() {
		if strings.EqualFold(k.Name, name) || strings.EqualFold(k.Name[strings.LastIndexByte(k.Name, '.')+1:], last) {
			return k.Name
		}
	}
	return ""
}

// parseUser reads a user's settings.json.
func parseUser(path string, text []byte, check engineCheck) (layer, error) {
	l := layer{path: path, entries: map[string]entry{}}
	root, err := parseTree(path, text)
	if err != nil {
		return layer{}, err
	}
	if err := l.takeUser("", root, check); err != nil {
		return layer{}, err
	}
	return l, nil
}

func (l *layer) takeUser(prefix string, o object, check engineCheck) error {
	for _, m := range o {
		name := prefix + m.name
		_, known := Find(name)
		switch {
		case known:
			if err := l.put(name, m.node, m.line, false, check); err != nil {
				return err
			}
		case isGroup(name):
			inner, ok := m.value.(object)
			if !ok {
				return &FileError{Path: l.path, Line: m.line, Key: name, Text: describe(m.value) + ", want an object"}
			}
			if err := l.takeUser(name+".", inner, check); err != nil {
				return err
			}
		default:
			l.stranger(name, m.line)
		}
	}
	return nil
}

// adminVersion is the only version of the admin file's form.
const adminVersion = "2"

// parseAdmin reads an admin-settings.json.
func parseAdmin(path string, text []byte, check engineCheck) (layer, error) {
	l := layer{path: path, entries: map[string]entry{}}
	root, err := parseTree(path, text)
	if err != nil {
		return layer{}, err
	}
	version, _ := root.get("configurationFileVersion")
	if fmt.Sprint(version.value) != adminVersion {
		return layer{}, &FileError{Path: path, Line: version.line, Key: "configurationFileVersion", Text: "want " + adminVersion}
	}
	if err := l.takeAdmin("", root, check); err != nil {
		return layer{}, err
	}
	return l, nil
}

func (l *layer) takeAdmin(prefix string, o object, check engineCheck) error {
	for _, m := range o {
		name := prefix + m.name
		_, known := Find(name)
		if name == "configurationFileVersion" {
			continue
		}
		if !known && !isGroup(name) {
			l.stranger(name, m.line)
			continue
		}
		inner, ok := m.value.(object)
		if !ok {
			return &FileError{Path: l.path, Line: m.line, Key: name, Text: describe(m.value) + ", want an object"}
		}
		var err error
		switch {
		case known:
			err = l.takeLock(name, m.line, inner, check)
		case isWhole(name):
			err = l.takeWhole(name, m.line, inner, check)
		default:
			err = l.takeAdmin(name+".", inner, check)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// takeLock reads {"locked": ..., "value": ...}.
func (l *layer) takeLock(name string, line int, o object, check engineCheck) error {
	locked, err := l.locked(name, line, o)
	if err != nil {
		return err
	}
	value, ok := o.get("value")
	if !ok {
		return &FileError{Path: l.path, Line: line, Key: name, Text: "no \"value\", want {\"locked\": true, \"value\": ...}"}
	}
	for _, m := range o {
		if m.name != "locked" && m.name != "value" {
			l.warn(m.line, name+"."+m.name, "unknown, not used")
		}
	}
	return l.put(name, value.node, value.line, locked, check)
}

// takeWhole reads an object that is locked as one. What it does not name is at
// its default, and locked with the rest.
func (l *layer) takeWhole(name string, line int, o object, check engineCheck) error {
	locked, err := l.locked(name, line, o)
	if err != nil {
		return err
	}
	for _, k := range Keys() {
		if locked && strings.HasPrefix(k.Name, name+".") {
			l.entries[k.Name] = entry{value: k.Default, line: line, locked: true}
		}
	}
	for _, m := range o {
		if m.name == "locked" {
			continue
		}
		full := name + "." + m.name
		if _, known := Find(full); !known {
			l.stranger(full, m.line)
			continue
		}
		if err := l.put(full, m.node, m.line, locked, check); err != nil {
			return err
		}
	}
	return nil
}

func (l *layer) locked(name string, line int, o object) (bool, error) {
	m, _ := o.get("locked")
	locked, ok := m.value.(bool)
	if !ok {
		return false, &FileError{Path: l.path, Line: max(line, m.line), Key: name + ".locked", Text: describe(m.value) + ", want true or false"}
	}
	return locked, nil
}
