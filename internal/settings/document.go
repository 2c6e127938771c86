package settings

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Markdown is the schema as a table.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| key | value, the default first | a change counts | what it says |\n| --- | --- | --- | --- |\n")
	for _, k := range Keys() {
		value := string(k.Type) + ": `" + k.Default.Text() + "`"
		switch {
		case k.Values != nil:
			value = "`" + strings.Join(k.Values, "`, `") + "`"
		case k.Default.Text() == "":
			value = string(k.Type) + ": none"
		}
		if k.Unit != "" {
			value += " (" + k.Unit + ")"
		}
		name := "`" + k.Name + "`"
		if k.Ours {
			name += " *"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, value, k.Applies, k.Help)
	}
	return b.String()
}

// Schema is a JSON Schema (draft 2020-12) of a user's file or, with admin, of an
// admin file.
func Schema(admin bool) []byte {
	root := map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"title":   "Portolan settings.json",
		"type":    "object",
	}
	properties := map[string]any{}
	if admin {
		root["title"] = "Portolan admin-settings.json"
		root["required"] = []string{"configurationFileVersion"}
		properties["configurationFileVersion"] = map[string]any{"const": 2}
	}
	root["properties"] = properties
	for _, k := range Keys() {
		schema := k.schema()
		group, last, dotted := strings.Cut(k.Name, ".")
		if admin && !isWhole(group) {
			schema = map[string]any{
				"type": "object", "required": []string{"locked", "value"},
				"properties": map[string]any{"locked": map[string]any{"type": "boolean"}, "value": schema},
			}
		}
		if !dotted {
			properties[k.Name] = schema
			continue
		}
		groupSchema(properties, group, admin)[last] = schema
	}
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // strings and maps of strings
	}
	return append(text, '\n')
}

// groupSchema finds or makes the properties of an object of keys.
func groupSchema(properties map[string]any, group string, admin bool) map[string]any {
	if have, ok := properties[group].(map[string]any); ok {
		inner, _ := have["properties"].(map[string]any)
		return inner
	}
	inner := map[string]any{}
	object := map[string]any{"type": "object", "properties": inner}
	if admin && isWhole(group) {
		inner["locked"] = map[string]any{"type": "boolean"}
		object["required"] = []string{"locked"}
	}
	properties[group] = object
	return inner
}

func (k Key) schema() map[string]any {
	s := map[string]any{"description": k.Help, "default": k.Default, "type": "string"}
	switch k.Type {
	case Boolean:
		s["type"] = "boolean"
	case List, Exclusions:
		s["type"] = "array"
		s["items"] = map[string]any{"type": "string"}
	case Options:
		s["type"] = []string{"object", "string"}
	case String, Subnet4, Subnet6, Address, Ports, Socket, ProxyURL, PAC, PortSet:
	}
	if k.Values != nil {
		s["enum"] = k.Values
	}
	return s
}
