package settings

import "strings"

// engineOption returns what of a name is the engine's own: log-opts.max-size of
// linuxVM.dockerDaemonOptions.log-opts.max-size.
func engineOption(name string) (path []string, ok bool) {
	option, ok := strings.CutPrefix(name, KeyEngine+".")
	return strings.Split(option, "."), ok
}

// optionValue reads an option as it is typed: JSON or, without quotes, a string.
func optionValue(text string) any {
	root, err := parseTree("", []byte(`{"option": `+text+`}`))
	if err != nil || len(root) != 1 || root[0].value == nil {
		return text
	}
	return root[0].plain()
}

// editOption puts value (nil: nothing) among the options that are in force.
func (s *Store) editOption(path []string, value any) (Edit, error) {
	options := s.value(KeyEngine).options()
	if options == nil {
		options = map[string]any{}
	}
	place(options, path, value)
	if len(options) == 0 {
		return s.edit(KeyEngine, nil)
	}
	return s.edit(KeyEngine, options)
}

// Option returns one option of the engine's that is in force, by its dotted name.
func (s *Snapshot) Option(name string) (Value, bool) {
	path, ok := engineOption(name)
	if !ok {
		return "", false
	}
	setting, _ := s.Get(KeyEngine)
	var value any = setting.Value.options()
	for _, part := range path {
		object, _ := value.(map[string]any)
		if value, ok = object[part]; !ok {
			return "", false
		}
	}
	return encode(value), true
}
