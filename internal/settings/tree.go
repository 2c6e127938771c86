package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// FileError is what is wrong with a settings file.
type FileError struct {
	Path string
	Line int    // from 1; 0 when the file as a whole is meant
	Key  string // "" when none is meant
	Text string // what was found and what is wanted
}

// Error is "PATH:LINE: KEY: TEXT".
func (e *FileError) Error() string {
	text := e.Path
	if e.Line > 0 {
		text += fmt.Sprintf(":%d", e.Line)
	}
	if e.Key != "" {
		text += ": " + e.Key
	}
	return text + ": " + e.Text
}

// node is one value of a JSON text. value is nil, bool, json.Number, string,
// []node or object.
type node struct {
	value any
	line  int
}

// object keeps the order of its members.
type object []member

type member struct {
	name string
	line int
	node
}

func (o object) get(name string) (member, bool) {
	for _, m := range o {
		if m.name == name {
			return m, true
		}
	}
	return member{}, false
}

// plain is the node as encoding/json would decode it.
func (n node) plain() any {
	switch v := n.value.(type) {
	case object:
		out := make(map[string]any, len(v))
		for _, m := range v {
			out[m.name] = m.plain()
		}
		return out
	case []node:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = item.plain()
		}
		return out
	}
	return n.value
}

// Bounds of what is read; both are far above what anybody writes.
const (
	maxDepth = 32
	maxSize  = 1 << 20
)

// treeReader parses JSON into nodes. A name that an object has twice is an error:
// readers differ in which one they take.
type treeReader struct {
	path  string
	text  []byte
	json  *json.Decoder
	depth int
}

// parseTree reads one JSON object, and nothing after it.
func parseTree(path string, text []byte) (object, error) {
	r := &treeReader{path: path, text: text, json: json.NewDecoder(bytes.NewReader(text))}
	r.json.UseNumber()
	n, err := r.node()
	if err != nil {
		return nil, err
	}
	root, ok := n.value.(object)
	if !ok {
		return nil, r.fail(n.line, "", "want a JSON object, such as {\"defaultNetworkingMode\": \"dual-stack\"}")
	}
	if _, err := r.json.Token(); !errors.Is(err, io.EOF) {
		return nil, r.fail(r.line(), "", "want nothing after the closing brace")
	}
	return root, nil
}

func (r *treeReader) line() int {
	return 1 + bytes.Count(r.text[:min(int(r.json.InputOffset()), len(r.text))], []byte("\n"))
}

func (r *treeReader) fail(line int, key, text string) error {
	return &FileError{Path: r.path, Line: line, Key: key, Text: text}
}

func (r *treeReader) token() (json.Token, error) {
	token, err := r.json.Token()
	if err == nil {
		return token, nil
	}
	line := r.line()
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		line = 1 + bytes.Count(r.text[:min(int(syntax.Offset), len(r.text))], []byte("\n"))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, r.fail(line, "", "not JSON: it ends too early")
	}
	return nil, r.fail(line, "", "not JSON: "+err.Error())
}

func (r *treeReader) node() (node, error) {
	token, err := r.token()
	if err != nil {
		return node{}, err
	}
	n := node{value: token, line: r.line()}
	delim, ok := token.(json.Delim)
	if !ok {
		return n, nil
	}
	if r.depth++; r.depth > maxDepth {
		return n, r.fail(n.line, "", fmt.Sprintf("nested more than %d deep", maxDepth))
	}
	defer func() { r.depth-- }()
	if delim == '{' {
		n.value, err = r.members()
	} else {
		n.value, err = r.items()
	}
	return n, err
}

func (r *treeReader) members() (object, error) {
	members := object{}
	for r.json.More() {
		token, err := r.token()
		if err != nil {
			return nil, err
		}
		name, ok := token.(string)
		if !ok {
			return nil, r.fail(r.line(), "", "not JSON: want a name in quotes")
		}
		m := member{name: name, line: r.line()}
		if _, twice := members.get(name); twice {
			return nil, r.fail(m.line, name, "given twice")
		}
		if m.node, err = r.node(); err != nil {
			return nil, err
		}
		members = append(members, m)
	}
	_, err := r.token()
	return members, err
}

func (r *treeReader) items() ([]node, error) {
	items := []node{}
	for r.json.More() {
		item, err := r.node()
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	_, err := r.token()
	return items, err
}
