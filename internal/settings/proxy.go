package settings

import (
	"encoding/json"

	proxies "github.com/portolan-net/portolan/internal/proxy/entry"
)

// ProxyValues is one of the two proxy objects.
type ProxyValues struct {
	Group       string // the object's name: "proxy", "containersProxy"
	Mode        string // system, manual, none; of containersProxy also same-as-host
	HTTP, HTTPS string // may hold passwords
	Exclude     []string
	PAC         string // URL or path
	EmbeddedPAC string
	Transparent proxies.Ports // of containersProxy only
}

func proxyValues(group string, get func(name string) Setting) ProxyValues {
	text := func(part string) string { return get(group + "." + part).Value.Text() }
	v := ProxyValues{
		Group: group, Mode: text("mode"), HTTP: text("http"), HTTPS: text("https"),
		PAC: text("pac"), EmbeddedPAC: text("embeddedPac"),
	}
	_ = json.Unmarshal([]byte(get(group+".exclude").Value), &v.Exclude) // a list, as checked
	if group == "containersProxy" {
		v.Transparent, _ = proxies.ParsePorts(text("transparentPorts")) // checked as well
	}
	return v
}

// proxyText says what is wrong with a text about proxies, "" for nothing. It
// quotes no URL of a proxy, which may hold a password.
func proxyText(t Type, text string) string {
	var err error
	switch {
	case text == "":
	case t == ProxyURL:
		_, err = proxies.ParseProxy(text)
	case t == PAC:
		_, err = proxies.ParsePAC(text)
	case t == PortSet:
		_, err = proxies.ParsePorts(text)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func (k Key) isList() bool { return k.Type == List || k.Type == Exclusions }

// Shown is a value of this key as it may be shown: without passwords.
func (k Key) Shown(v Value) Value {
	if k.Type != ProxyURL {
		return v
	}
	return encode(proxies.Mask(v.Text()))
}

// Shown is the snapshot as it may be shown: without passwords.
func (s *Snapshot) Shown() *Snapshot {
	shown := &Snapshot{Warnings: s.Warnings, Problems: s.Problems}
	for _, setting := range s.Settings {
		sources := make([]Source, len(setting.Sources))
		for i, source := range setting.Sources {
			sources[i] = source
			sources[i].Value = setting.Key.Shown(source.Value)
		}
		setting.Value, setting.Sources = setting.Key.Shown(setting.Value), sources
		shown.Settings = append(shown.Settings, setting)
	}
	return shown
}

// Shown is the edit as it may be shown: without passwords, and without its text.
func (e Edit) Shown() Edit {
	shown := Edit{Warnings: e.Warnings}
	for _, c := range e.Changes {
		shown.Changes = append(shown.Changes, Change{Key: c.Key, Before: c.Key.Shown(c.Before), After: c.Key.Shown(c.After), From: c.From})
	}
	return shown
}
