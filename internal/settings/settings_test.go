package settings

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/portolan"
)

// noHosts refuses one engine option, as the engine's own check does.
func noHosts(options map[string]any) error {
	if _, found := options["hosts"]; found {
		return errors.New(`engine option "hosts": Portolan sets it itself; take it out`)
	}
	return nil
}

func TestDefaultsAreValid(t *testing.T) {
	for _, k := range Keys() {
		if v, wrong := k.value(node{value: mustTree(t, `{"v": `+string(k.Default)+`}`)[0].value}); wrong != "" || v != k.Default {
			t.Errorf("%s: the default %s is read as %s: %s", k.Name, k.Default, v, wrong)
		}
		if k.Values != nil && k.Default.Text() != k.Values[0] {
			t.Errorf("%s: the default %s does not come first in %v", k.Name, k.Default, k.Values)
		}
	}
	v := resolve(layer{}, layer{}).Values
	if v.Mode != portolan.DualStack || v.Inhibition != "auto" || v.PortBinding != BindAsAsked || v.Link != portolan.DefaultLink() ||
		v.FixedV4 || v.FixedV6 || v.Engine != nil || !v.HostLoopback {
		t.Errorf("without files: %+v", v)
	}
}

func mustTree(t *testing.T, text string) object {
	t.Helper()
	root, err := parseTree("text", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestParseUser(t *testing.T) {
	for _, c := range []struct {
		name, text string
		values     map[string]Value
		err        string // PATH:LINE: KEY: TEXT, or a part of it
		warning    string
	}{
		{name: "nothing", text: `{}`},
		{
			name: "all kinds", text: `{"defaultNetworkingMode": "ipv6only", "portolan": {"hostLoopback": false},
			 "linuxVM": {"vpnkitCIDR": "10.9.0.0/16", "dockerDaemonOptions": {"debug": true, "max": 12345678901234567890}}, "proxy": {"exclude": ["a", ".b"]}}`,
			values: map[string]Value{
				KeyMode: `"ipv6only"`, KeyLoopback: `false`, KeySubnet4: `"10.9.0.0/16"`, "proxy.exclude": `["a",".b"]`,
				KeyEngine: `{"debug":true,"max":12345678901234567890}`,
			},
		},
		{name: "options in a string", text: `{"linuxVM": {"dockerDaemonOptions": "{\"debug\": true}"}}`, values: map[string]Value{KeyEngine: `{"debug":true}`}},
		{name: "no options in a string", text: `{"linuxVM": {"dockerDaemonOptions": ""}}`, values: map[string]Value{KeyEngine: `{}`}},
		{name: "cut off", text: "{\n\"dnsInhibition\": \"no", err: "f:2: not JSON"},
		{name: "empty", text: "", err: "f:1: not JSON: it ends too early"},
		{name: "no comma", text: "{\n\"a\": 1\n\"b\": 2}", err: "f:3: not JSON"},
		{name: "a list", text: `[]`, err: "f:1: want a JSON object"},
		{name: "more behind", text: "{}\n{}", err: "f:2: want nothing after"},
		{name: "twice", text: "{\"dnsInhibition\": \"none\",\n\"dnsInhibition\": \"auto\"}", err: "f:2: dnsInhibition: given twice"},
		{name: "deep", text: `{"x":` + strings.Repeat("[", 100000), err: "f:1: nested more than"},
		{name: "wrong value", text: "{\n\n\"defaultNetworkingMode\": \"ipv5\"}", err: `f:3: defaultNetworkingMode: "ipv5", want one of dual-stack, ipv4only, ipv6only`},
		{name: "wrong type", text: `{"portolan": {"hostLoopback": "yes"}}`, err: `f:1: portolan.hostLoopback: "yes", want true or false`},
		{name: "a number", text: `{"dnsInhibition": 4}`, err: "f:1: dnsInhibition: the number 4, want one of auto"},
		{name: "null", text: `{"dnsInhibition": null}`, err: "dnsInhibition: null, want"},
		{name: "a list with numbers", text: `{"proxy": {"exclude": ["a", 1]}}`, err: "proxy.exclude: the number 1 in the list"},
		{name: "no group", text: `{"linuxVM": true}`, err: "linuxVM: true, want an object"},
		{name: "host bits", text: `{"linuxVM": {"vpnkitCIDR": "10.0.0.1/24"}}`, err: "want an IPv4 network of /8 to /24"},
		{name: "too narrow", text: `{"linuxVM": {"vpnkitCIDR": "10.0.0.0/25"}}`, err: "want an IPv4 network"},
		{name: "loopback", text: `{"linuxVM": {"vpnkitCIDR": "127.0.0.0/24"}}`, err: "want an IPv4 network"},
		{name: "everything", text: `{"linuxVM": {"vpnkitCIDR": "0.0.0.0/0"}}`, err: "want an IPv4 network"},
		{name: "multicast", text: `{"linuxVM": {"vpnkitCIDR": "239.0.0.0/24"}}`, err: "want an IPv4 network"},
		{name: "IPv6 for IPv4", text: `{"linuxVM": {"vpnkitCIDR": "fd00::/64"}}`, err: "want an IPv4 network"},
		{name: "IPv4 for IPv6", text: `{"portolan": {"subnet6": "10.0.0.0/24"}}`, err: "want an IPv6 network"},
		{name: "link-local", text: `{"portolan": {"subnet6": "fe80::/64"}}`, err: "want an IPv6 network"},
		{name: "an option of ours", text: "{\"linuxVM\":\n {\"dockerDaemonOptions\": {\"hosts\": []}}}", err: `f:2: linuxVM.dockerDaemonOptions: engine option "hosts"`},
		{name: "broken options", text: `{"linuxVM": {"dockerDaemonOptions": "{"}}`, err: "linuxVM.dockerDaemonOptions: in the string:1: not JSON"},
		{name: "unknown", text: "{\n\"defaultnetworkingmode\": 7}", warning: "f:2: defaultnetworkingmode: unknown, not used; did you mean defaultNetworkingMode?"},
		{name: "unknown part", text: `{"linuxVM": {"x": 1}}`, warning: "f:1: linuxVM.x: unknown, not used"},
		{name: "elsewhere", text: `{"vpnkitCIDR": "10.0.0.0/24"}`, warning: "did you mean linuxVM.vpnkitCIDR?"},
		{name: "Docker Desktop's", text: `{"scout": {}}`, warning: "does not concern networking"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := parseUser("f", []byte(c.text), noHosts)
			checkLayer(t, l, err, c.values, c.err, c.warning)
		})
	}
}

func checkLayer(t *testing.T, l layer, err error, values map[string]Value, wantErr, warning string) {
	t.Helper()
	if (err != nil) != (wantErr != "") || err != nil && !strings.Contains(err.Error(), wantErr) {
		t.Fatalf("error %v, want %q", err, wantErr)
	}
	if err == nil && len(l.entries) != len(values) {
		t.Errorf("entries are %v, want %v", l.entries, values)
	}
	for name, want := range values {
		if got := l.entries[name].value; got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if got := strings.Join(l.warnings, "\n"); (got == "") != (warning == "") || !strings.Contains(got, warning) {
		t.Errorf("warnings %q, want %q", got, warning)
	}
}

func TestParseAdmin(t *testing.T) {
	proxies := map[string]Value{
		"proxy.mode": `"manual"`, "proxy.http": `"http://p:1"`, "proxy.https": `""`, "proxy.exclude": `[]`, "proxy.pac": `""`, "proxy.embeddedPac": `""`,
	}
	for _, c := range []struct {
		name, text string
		values     map[string]Value
		err        string
		warning    string
	}{
		{name: "nothing", text: `{"configurationFileVersion": 2}`},
		{name: "no version", text: `{}`, err: "f: configurationFileVersion: want 2"},
		{name: "another version", text: `{"configurationFileVersion": 3}`, err: "f:1: configurationFileVersion: want 2"},
		{
			name:   "locks",
			text:   `{"configurationFileVersion": 2, "dnsInhibition": {"locked": true, "value": "none"}, "linuxVM": {"vpnkitCIDR": {"locked": false, "value": "10.0.0.0/24"}}}`,
			values: map[string]Value{KeyInhibition: `"none"`, KeySubnet4: `"10.0.0.0/24"`},
		},
		{name: "a proxy as a whole", text: `{"configurationFileVersion": 2, "proxy": {"locked": true, "mode": "manual", "http": "http://p:1"}}`, values: proxies},
		{name: "a proxy's default", text: `{"configurationFileVersion": 2, "proxy": {"locked": false, "mode": "manual"}}`, values: map[string]Value{"proxy.mode": `"manual"`}},
		{name: "no lock", text: "{\"configurationFileVersion\": 2,\n\"dnsInhibition\": {\"value\": \"none\"}}", err: "f:2: dnsInhibition.locked: null, want true or false"},
		{name: "a lock in quotes", text: `{"configurationFileVersion": 2, "dnsInhibition": {"locked": "true", "value": "none"}}`, err: `dnsInhibition.locked: "true", want`},
		{name: "no value", text: `{"configurationFileVersion": 2, "dnsInhibition": {"locked": true}}`, err: `dnsInhibition: no "value"`},
		{name: "a plain value", text: `{"configurationFileVersion": 2, "dnsInhibition": "none"}`, err: `dnsInhibition: "none", want an object`},
		{name: "a wrong value", text: `{"configurationFileVersion": 2, "dnsInhibition": {"locked": true, "value": "all"}}`, err: `dnsInhibition: "all", want one of`},
		{name: "a proxy without a lock", text: `{"configurationFileVersion": 2, "proxy": {"mode": "manual"}}`, err: "proxy.locked: null, want"},
		{
			name: "Kubernetes has no value either", text: `{"configurationFileVersion": 2, "kubernetes": {"locked": false, "enabled": false}}`,
			warning: "kubernetes: Docker Desktop's, does not concern networking here: not used",
		},
		{name: "another operating system's", text: `{"configurationFileVersion": 2, "linuxVM": {"wslEngineEnabled": {"locked": true, "value": true}}}`, warning: "wslEngineEnabled"},
		{name: "unknown", text: `{"configurationFileVersion": 2, "dnsInhibitions": {"locked": true, "value": "none"}}`, warning: "dnsInhibitions: unknown, not used"},
		{
			name: "unknown beside a value", text: `{"configurationFileVersion": 2, "dnsInhibition": {"locked": true, "value": "none", "why": 1}}`,
			values: map[string]Value{KeyInhibition: `"none"`}, warning: "dnsInhibition.why: unknown",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := parseAdmin("f", []byte(c.text), noHosts)
			checkLayer(t, l, err, c.values, c.err, c.warning)
		})
	}
}

// A file as Docker Desktop's administrators have it counts as it is: what concerns
// networking is in force, all else is known and not used.
func TestDockerDesktopFile(t *testing.T) {
	l, err := parseAdmin("f", []byte(`{
	"configurationFileVersion": 2,
	"proxy": {"locked": true, "mode": "manual", "http": "http://proxy.example.com:3128", "https": "", "exclude": ["*.example.com"],
		"windowsDockerdPort": 65000, "enableKerberosNtlm": false, "pac": "", "embeddedPac": ""},
	"containersProxy": {"locked": true, "mode": "manual", "http": "", "https": "", "exclude": [], "pac": "", "embeddedPac": "", "transparentPorts": "*"},
	"linuxVM": {
		"wslEngineEnabled": {"locked": false, "value": false},
		"dockerDaemonOptions": {"locked": true, "value": "{\"debug\": true}"},
		"vpnkitCIDR": {"locked": false, "value": "192.168.65.0/24"}},
	"windowsContainers": {"dockerDaemonOptions": {"locked": false, "value": "{}"}},
	"defaultNetworkingMode": {"locked": true, "value": "ipv4only"},
	"dnsInhibition": {"locked": true, "value": "none"},
	"portBindingBehavior": {"locked": true, "value": "local-only-port-binding"},
	"kubernetes": {"locked": false, "enabled": false, "showSystemContainers": false, "imagesRepository": ""},
	"enhancedContainerIsolation": {"locked": true, "value": true, "dockerSocketMount": {"imageList": {"images": []}}},
	"scout": {"locked": false, "sbomIndexing": true},
	"filesharingAllowedDirectories": [{"path": "$HOME", "sharedByDefault": true}],
	"enableInferenceCORS": {"locked": true, "value": ""},
	"desktopTerminalEnabled": {"locked": false, "value": false}}`), noHosts)
	if err != nil {
		t.Fatal(err)
	}
	for _, warning := range l.warnings {
		if !strings.Contains(warning, "Docker Desktop's, does not concern networking") {
			t.Errorf("warning %q", warning)
		}
	}
	if len(l.warnings) != 10 {
		t.Errorf("%d keys are listed as not used, want 10: %q", len(l.warnings), l.warnings)
	}
	v := resolve(layer{}, l).Values
	if v.Mode != portolan.IPv4Only || v.Inhibition != "none" || v.PortBinding != BindLocalOnly || v.Engine["debug"] != true ||
		v.Proxy.HTTP != "http://proxy.example.com:3128" || !slices.Equal(v.Proxy.Exclude, []string{"*.example.com"}) || !v.ContainersProxy.Transparent.All {
		t.Errorf("in force is %+v", v)
	}
}

func layers(t *testing.T, user, admin string) (layer, layer) {
	t.Helper()
	u, err := parseUser("user.json", []byte(user), nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := parseAdmin("admin.json", []byte(`{"configurationFileVersion": 2`+admin+`}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	return u, a
}

func TestPrecedence(t *testing.T) {
	for _, c := range []struct {
		name, user, admin, want string
		origin                  Origin
		sources                 int
		locked                  bool
	}{
		{"default", `{}`, ``, "default-port-binding", FromSchema, 1, false},
		{"admin default", `{}`, `, "portBindingBehavior": {"locked": false, "value": "local-only-port-binding"}`, "local-only-port-binding", FromAdminDefault, 2, false},
		{"user over admin default", `{"portBindingBehavior": "default-port-binding"}`, `, "portBindingBehavior": {"locked": false, "value": "local-only-port-binding"}`, "default-port-binding", FromUser, 3, false},
		{"lock over user", `{"portBindingBehavior": "default-port-binding"}`, `, "portBindingBehavior": {"locked": true, "value": "local-only-port-binding"}`, "local-only-port-binding", FromAdminLock, 3, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := resolve(layers(t, c.user, c.admin))
			got, _ := s.Get(KeyBinding)
			if got.Value.Text() != c.want || got.Winner().Origin != c.origin || len(got.Sources) != c.sources || got.Locked != c.locked {
				t.Errorf("%+v", got)
			}
			if string(s.Values.PortBinding) != c.want {
				t.Errorf("in force is %s", s.Values.PortBinding)
			}
		})
	}
}

// A DNS filter for one family counts in dual-stack only.
func TestInhibitionNeedsDualStack(t *testing.T) {
	for mode, want := range map[string]string{"dual-stack": "ipv6", "ipv4only": "auto", "ipv6only": "auto"} {
		s := resolve(layers(t, `{"dnsInhibition": "ipv6", "defaultNetworkingMode": "`+mode+`"}`, ``))
		setting, _ := s.Get(KeyInhibition)
		if s.Values.Inhibition != want || (setting.Note != "") != (want == "auto") || (len(s.Warnings) > 0) != (want == "auto") {
			t.Errorf("%s: %s, %q, %q", mode, s.Values.Inhibition, setting.Note, s.Warnings)
		}
		s = resolve(layers(t, `{"dnsInhibition": "none", "defaultNetworkingMode": "`+mode+`"}`, ``))
		if s.Values.Inhibition != "none" {
			t.Errorf("%s: none became %s", mode, s.Values.Inhibition)
		}
	}
}

// Proxies that somebody chose and that don't count are no silent matter.
func TestIdleProxiesWarn(t *testing.T) {
	for text, want := range map[string][]string{
		`{"proxy": {"https": "p:1"}}`: {"proxy.https counts in mode manual only, and proxy.mode is system"},
		`{"proxy": {"mode": "manual", "https": "p:1"}, "containersProxy": {"pac": "/etc/x.pac"}}`: {"containersProxy.pac counts in mode manual only, and containersProxy.mode is same-as-host"},
		`{"proxy": {"exclude": ["a"]}, "containersProxy": {"transparentPorts": "80"}}`:            nil,
	} {
		if s := resolve(layers(t, text, ``)); !slices.Equal(s.Warnings, want) {
			t.Errorf("%s: %q, want %q", text, s.Warnings, want)
		}
	}
}

func TestFixedSubnet(t *testing.T) {
	v := resolve(layers(t, `{"linuxVM": {"vpnkitCIDR": "192.168.65.0/24"}}`, ``)).Values
	if !v.FixedV4 || v.FixedV6 {
		t.Errorf("fixed are %v and %v; a choice counts even when it is the default", v.FixedV4, v.FixedV6)
	}
}

func TestPortBinding(t *testing.T) {
	for _, c := range []struct{ addr, asAsked, localDefault, localOnly string }{
		{"0.0.0.0", "0.0.0.0", "127.0.0.1", "127.0.0.1"},
		{"::", "::", "::1", "::1"},
		{"192.0.2.1", "192.0.2.1", "192.0.2.1", "127.0.0.1"},
		{"2001:db8::1", "2001:db8::1", "2001:db8::1", "::1"},
		{"127.0.0.9", "127.0.0.9", "127.0.0.9", "127.0.0.9"},
		{"::1", "::1", "::1", "::1"},
	} {
		addr := netip.MustParseAddr(c.addr)
		for behaviour, want := range map[PortBinding]string{BindAsAsked: c.asAsked, BindLocalDefault: c.localDefault, BindLocalOnly: c.localOnly} {
			if got := behaviour.Listen(addr); got.String() != want {
				t.Errorf("%s: %s listens on %s, want %s", behaviour, addr, got, want)
			}
		}
	}
}

func TestFromText(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{KeyMode, "ipv4only", `"ipv4only"`},
		{KeyLoopback, "false", `false`},
		{KeyLoopback, "no", ""},
		{"proxy.exclude", "a, b,", `["a","b"]`},
		{"proxy.exclude", `["a, b"]`, `["a, b"]`},
		{"proxy.exclude", `[1]`, ""},
		{KeyEngine, `{"debug": true}`, `{"debug":true}`},
		{KeyEngine, `debug`, ""},
		{KeySubnet6, "fd00:0:0:0::/64", `"fd00::/64"`},
	} {
		k, _ := Find(c.name)
		if got, err := k.FromText(c.text); string(got) != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s %q: %s, %v; want %s", c.name, c.text, got, err, c.want)
		}
	}
}
