package settings

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

// Origin is one of the layers.
type Origin string

// The layers, weakest first.
const (
	FromSchema       Origin = "default"
	FromAdminDefault Origin = "admin default"
	FromUser         Origin = "user"
	FromAdminLock    Origin = "admin lock"
)

// Source is one layer's opinion of a key.
type Source struct {
	Origin Origin `json:"origin"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Value  Value  `json:"value"`
}

// String is "user (~/.config/portolan/default/settings.json:3)".
func (s Source) String() string {
	if s.File == "" {
		return string(s.Origin)
	}
	return fmt.Sprintf("%s (%s:%d)", s.Origin, s.File, s.Line)
}

// Setting is a key with its value in force and where that comes from.
type Setting struct {
	Key
	Value   Value    `json:"value"`
	Locked  bool     `json:"locked"`
	Sources []Source `json:"sources"`        // weakest first; the last one wins
	Note    string   `json:"note,omitempty"` // why Value is not the winner's
}

// Winner is the source that counts.
func (s Setting) Winner() Source { return s.Sources[len(s.Sources)-1] }

// chosen reports whether somebody chose the value, be it the default.
func (s Setting) chosen() bool { return s.Winner().Origin != FromSchema }

// Snapshot is the state of all settings at one moment. Nobody changes it.
type Snapshot struct {
	Settings []Setting
	Values   Values
	// Warnings name keys that are not used. Problems name files that are bad, so
	// that an earlier state of them is in force.
	Warnings, Problems []string
}

// Get returns the setting of that name.
func (s *Snapshot) Get(name string) (Setting, bool) {
	for _, setting := range s.Settings {
		if setting.Name == name {
			return setting, true
		}
	}
	return Setting{}, false
}

// Values are the settings in force, as the daemon needs them.
type Values struct {
	Mode           portolan.Mode
	Inhibition     string // auto, ipv4, ipv6, none
	PortBinding    PortBinding
	Link           portolan.Link
	FixedV4        bool // somebody chose the subnet: no other one is taken
	FixedV6        bool
	Engine         map[string]any // dockerd's options
	HostLoopback   bool
	Connect        string         // what a connected host reaches: ConnectAll, ConnectPublished, ConnectOff
	ProxyVariables bool           // containers and builds get them while a proxy is configured
	Certificates   bool           // containers get the host's CA certificates
	HostNetwork    bool           // containers on the host network share ports with the host
	HostNames      netip.AddrPort // not valid for nowhere
	SOCKS          netip.AddrPort // the same

	Proxy, ContainersProxy ProxyValues
	ProxyUser              string
	ProxyPasswordCommand   string // for sh; "" for none
	RandomPorts            system.PortRange
	UDPOffload             bool   // datagrams are joined
	SSHAgent               string // a path, none, or "" for where agents usually are
}

// resolve puts the layers over each other.
func resolve(user, admin layer) *Snapshot {
	s := &Snapshot{Warnings: append(append([]string{}, admin.warnings...), user.warnings...)}
	for _, k := range Keys() {
		s.Settings = append(s.Settings, resolveKey(k, user, admin))
	}
	s.reconcile()
	s.Values = s.values()
	return s
}

func resolveKey(k Key, user, admin layer) Setting {
	sources := []Source{{Origin: FromSchema, Value: k.Default}}
	ruled, isRuled := admin.entries[k.Name]
	source := func(o Origin, l layer, e entry) Source {
		return Source{Origin: o, File: l.path, Line: e.line, Value: e.value}
	}
	if isRuled && !ruled.locked {
		sources = append(sources, source(FromAdminDefault, admin, ruled))
	}
	if chosen, ok := user.entries[k.Name]; ok {
		sources = append(sources, source(FromUser, user, chosen))
	}
	if isRuled && ruled.locked {
		sources = append(sources, source(FromAdminLock, admin, ruled))
	}
	setting := Setting{Key: k, Sources: sources, Locked: isRuled && ruled.locked}
	setting.Value = setting.Winner().Value
	return setting
}

// reconcile replaces a value that another one rules out.
func (s *Snapshot) reconcile() {
	mode, _ := s.Get(KeyMode)
	for i, setting := range s.Settings {
		if setting.Name != KeyInhibition || allowedIn(setting.Value, mode.Value) {
			continue
		}
		s.Settings[i].Note = fmt.Sprintf("%s counts in %s only; %s is %s, so this is auto", setting.Value.Text(), portolan.DualStack, KeyMode, mode.Value.Text())
		s.Settings[i].Value = setting.Default
		s.Warnings = append(s.Warnings, KeyInhibition+": "+s.Settings[i].Note)
	}
	for _, group := range []string{"proxy", "containersProxy"} {
		s.Warnings = append(s.Warnings, s.idleProxies(group)...)
	}
}

// idleProxies are warnings about proxies that were chosen and don't count in the
// group's mode.
func (s *Snapshot) idleProxies(group string) (warnings []string) {
	mode, _ := s.Get(group + ".mode")
	if mode.Value == `"manual"` {
		return nil
	}
	for _, part := range []string{"http", "https", "pac", "embeddedPac"} {
		if setting, _ := s.Get(group + "." + part); setting.Value.Text() != "" {
			warnings = append(warnings, fmt.Sprintf("%s counts in mode manual only, and %s is %s", setting.Name, mode.Name, mode.Value.Text()))
		}
	}
	return warnings
}

// allowedIn: a filter for one family would leave no address in a mode that has
// only the other.
func allowedIn(inhibition, mode Value) bool {
	return mode == encode(portolan.DualStack) || inhibition == `"auto"` || inhibition == `"none"`
}

// values reads what resolveKey has checked.
func (s *Snapshot) values() Values {
	get := func(name string) Setting {
		setting, _ := s.Get(name)
		return setting
	}
	prefix := func(name string) (netip.Prefix, bool) {
		setting := get(name)
		parsed, _ := netip.ParsePrefix(setting.Value.Text())
		return parsed, setting.chosen()
	}
	v := Values{
		Mode:           portolan.Mode(get(KeyMode).Value.Text()),
		Inhibition:     get(KeyInhibition).Value.Text(),
		PortBinding:    PortBinding(get(KeyBinding).Value.Text()),
		Engine:         get(KeyEngine).Value.options(),
		HostLoopback:   get(KeyLoopback).Value == `true`,
		Connect:        get(KeyConnect).Value.Text(),
		ProxyVariables: get(KeyVariables).Value == `true`,
		Certificates:   get(KeyCertInside).Value == `true`,
		HostNetwork:    get(KeyHostNet).Value == `true`,
		SSHAgent:       get(KeySSHAgent).Value.Text(),
		UDPOffload:     get(KeyUDPOffload).Value == `true`,
	}
	v.ProxyUser, v.ProxyPasswordCommand = get("portolan.proxyUser").Value.Text(), get("portolan.proxyPasswordCommand").Value.Text()
	v.Proxy, v.ContainersProxy = proxyValues("proxy", get), proxyValues("containersProxy", get)
	v.HostNames, _ = netip.ParseAddrPort(get(KeyHostNames).Value.Text())
	v.SOCKS, _ = netip.ParseAddrPort(get(KeySOCKS).Value.Text())
	v.RandomPorts, _ = system.ParsePortRange(get(KeyRandom).Value.Text())
	v.Link.V4, v.FixedV4 = prefix(KeySubnet4)
	v.Link.V6, v.FixedV6 = prefix(KeySubnet6)
	return v
}

// options are engine options, nil for none.
func (v Value) options() map[string]any {
	var options map[string]any
	_ = json.Unmarshal([]byte(v), &options) // a Value is always JSON
	if len(options) == 0 {
		return nil
	}
	return options
}

// PortBinding says where published ports listen.
type PortBinding string

// The behaviours.
const (
	BindAsAsked      PortBinding = "default-port-binding"
	BindLocalDefault PortBinding = "default-local-port-binding"
	BindLocalOnly    PortBinding = "local-only-port-binding"
)

// Listen is the address on which a port published on addr listens.
func (b PortBinding) Listen(addr netip.Addr) netip.Addr {
	if addr.IsLoopback() || b == BindAsAsked || b == BindLocalDefault && !addr.IsUnspecified() {
		return addr
	}
	if addr.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}
