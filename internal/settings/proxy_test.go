package settings

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// What is wrong in a proxy object names the key, and quotes no password.
func TestProxyKeysAreChecked(t *testing.T) {
	for text, want := range map[string]string{
		`{"proxy": {"http": "ftp://u:geheim@a:1"}}`:         `proxy.http: scheme "ftp"`,
		`{"proxy": {"https": "http://u:geheim@a:99999"}}`:   "proxy.https: port",
		`{"proxy": {"exclude": ["a", "10.0.0.0/77"]}}`:      `proxy.exclude: "10.0.0.0/77"`,
		`{"containersProxy": {"pac": "proxy.pac"}}`:         "containersProxy.pac: want a URL",
		`{"containersProxy": {"transparentPorts": "80,x"}}`: `containersProxy.transparentPorts: port "x"`,
		`{"containersProxy": {"mode": "off"}}`:              "containersProxy.mode: \"off\", want one of same-as-host",
		`{"proxy": {"mode": "same-as-host"}}`:               "want one of system, manual, none",
	} {
		_, err := parseUser("settings.json", []byte(text), nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// The admin file of an air-gapped container, as Docker Desktop documents it.
func TestProxyValues(t *testing.T) {
	s := resolve(layers(t, `{"proxy": {"mode": "manual", "http": "http://u:geheim@a:1", "exclude": ["x, .y"]}}`,
		`, "containersProxy": {"locked": true, "mode": "manual", "http": "", "https": "", "exclude": ["ok.example"], "pac": "", "embeddedPac": "", "transparentPorts": "*"}`))
	want := ProxyValues{Group: "proxy", Mode: "manual", HTTP: "http://u:geheim@a:1", Exclude: []string{"x, .y"}}
	if !reflect.DeepEqual(s.Values.Proxy, want) {
		t.Errorf("proxy is %+v, want %+v", s.Values.Proxy, want)
	}
	c := s.Values.ContainersProxy
	if c.Mode != "manual" || !c.Transparent.All || len(c.Exclude) != 1 || len(s.Warnings) > 0 {
		t.Errorf("containersProxy is %+v, warnings %q", c, s.Warnings)
	}
}

func TestPasswordsAreNotShown(t *testing.T) {
	user, admin := layers(t, `{"proxy": {"http": "http://u:geheim@a:1"}}`, `, "proxy": {"locked": true, "https": "http://v:geheim@b:2"}`)
	s := resolve(user, admin)
	text, err := json.Marshal(s.Shown().Settings)
	if err != nil {
		t.Fatal(err)
	}
	edit := Edit{Text: []byte("geheim"), Changes: []Change{{Key: s.Settings[0].Key}}}
	for _, setting := range s.Settings {
		edit.Changes = append(edit.Changes, Change{Key: setting.Key, Before: setting.Value, After: setting.Value})
	}
	all := string(text) + fmt.Sprintf("%+v", edit.Shown())
	if strings.Contains(all, "geheim") || !strings.Contains(all, "http://v:***@b:2") {
		t.Errorf("shown: %s", all)
	}
	if got, _ := s.Get("proxy.https"); got.Value.Text() != "http://v:geheim@b:2" {
		t.Errorf("what is used is masked as well: %s", got.Value)
	}
}
