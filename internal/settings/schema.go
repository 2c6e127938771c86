package settings

import "strings"

// Type says what a key's value is in JSON.
type Type string

// The types.
const (
	String  Type = "string"
	Boolean Type = "boolean"
	List    Type = "list"   // of strings; on the command line also a,b,c
	Subnet4 Type = "subnet" // an IPv4 network of /24 or wider, in a string
	Subnet6 Type = "IPv6 subnet"
	Ports   Type = "port range"       // FIRST-LAST, of 1024 to 65535
	Address Type = "loopback address" // 127.0.0.1:PORT or [::1]:PORT, or "" for none
	Options Type = "object"           // also as JSON in a string, which is Docker Desktop's way
)

// Applies says when a changed value counts.
type Applies string

// When a change counts.
const (
	Live    Applies = "at once"
	Engine  Applies = "at once in the router; the engine restarts for the rest, containers go on"
	Restart Applies = "the engine restarts, containers go on"
	Machine Applies = "at the next start of the machine"
	NotYet  Applies = "kept, not used yet"
)

// Restarts reports whether the engine restarts for a change.
func (a Applies) Restarts() bool { return a == Engine || a == Restart }

// Key is one setting.
type Key struct {
	Name    string   `json:"name"` // dotted as in JSON: linuxVM.vpnkitCIDR
	Type    Type     `json:"type"`
	Values  []string `json:"values,omitempty"` // all that a string may be; the default first
	Default Value    `json:"default"`
	Unit    string   `json:"unit,omitempty"` // how the text is written
	Applies Applies  `json:"applies"`
	Ours    bool     `json:"ours,omitempty"` // not one of Docker Desktop's
	Help    string   `json:"help"`
}

// The keys that code names.
const (
	KeyMode       = "defaultNetworkingMode"
	KeyInhibition = "dnsInhibition"
	KeyBinding    = "portBindingBehavior"
	KeySubnet4    = "linuxVM.vpnkitCIDR"
	KeySubnet6    = "portolan.subnet6"
	KeyEngine     = "linuxVM.dockerDaemonOptions"
	KeyLoopback   = "portolan.hostLoopback"
	KeyHostNames  = "portolan.hostNames"
	KeyRandom     = "portolan.randomPorts"
)

// Keys is the schema, in the order in which people read it.
func Keys() []Key {
	keys := []Key{
		{
			Name: KeyMode, Type: String, Values: []string{"dual-stack", "ipv4only", "ipv6only"}, Applies: Engine,
			Help: "which IP versions containers use; networks that exist keep theirs, what is not allowed is refused",
		},
		{
			Name: KeyInhibition, Type: String, Values: []string{"auto", "ipv4", "ipv6", "none"}, Applies: Live,
			Help: "which address records the resolver hides: those the host can't use, A (ipv4), AAAA (ipv6) or none; ipv4 and ipv6 in dual-stack only",
		},
		{
			Name: KeyBinding, Type: String, Applies: Live,
			Values: []string{"default-port-binding", "default-local-port-binding", "local-only-port-binding"},
			Help:   "where published ports listen: everywhere, on loopback unless -p names an address, on loopback whatever -p says; for ports published from then on",
		},
		{Name: KeyRandom, Type: Ports, Default: `"49000-49900"`, Unit: "FIRST-LAST", Applies: Restart, Ours: true, Help: "where -P and -p ADDRESS::PORT find a port; Portolan's own connections keep out of it"},
		{Name: KeySubnet4, Type: Subnet4, Default: `"192.168.65.0/24"`, Unit: "CIDR", Applies: Machine, Help: "the network between router and machine; without it another one is chosen where the host uses this one"},
		{Name: KeySubnet6, Type: Subnet6, Default: `"fdc4:f303:9324::/64"`, Unit: "CIDR", Applies: Machine, Ours: true, Help: "the same for IPv6"},
		{Name: KeyEngine, Type: Options, Default: `{}`, Unit: "keys of dockerd's daemon.json", Applies: Restart, Help: "the engine's own options: registry mirrors, log driver, address pools; keys that Portolan sets itself are refused"},
		{Name: KeyLoopback, Type: Boolean, Default: `true`, Applies: Live, Ours: true, Help: "whether host.docker.internal leads to the host's loopback; false answers \"prohibited\""},
		{Name: KeyHostNames, Type: Address, Default: `"127.0.0.1:5399"`, Unit: "ADDRESS:PORT on loopback, or nothing", Applies: Machine, Ours: true, Help: "where this host asks for NAME.portolan.internal, the names of containers; see dns.md"},
	}
	keys = append(keys, proxyKeys("proxy", "what the engine uses to pull and push")...)
	keys = append(keys, proxyKeys("containersProxy", "what containers use")...)
	keys = append(keys, Key{
		Name: "containersProxy.transparentPorts", Type: String, Default: `""`, Unit: "ports", Applies: NotYet,
		Help: "TCP ports that go through the proxy unasked: none, a list such as 80,443, or *",
	})
	for i, k := range keys {
		if k.Values != nil {
			keys[i].Default = encode(k.Values[0])
		}
	}
	return keys
}

// proxyKeys are the parts of one of the two proxy objects.
func proxyKeys(group, use string) []Key {
	key := func(name string, t Type, unit, help string) Key {
		k := Key{Name: group + "." + name, Type: t, Unit: unit, Applies: NotYet, Default: `""`, Help: help + " (" + use + ")"}
		if t == List {
			k.Default = `[]`
		}
		return k
	}
	mode := key("mode", String, "", "where the proxy comes from")
	mode.Values = []string{"system", "manual"}
	return []Key{
		mode,
		key("http", String, "URL", "the proxy for http"),
		key("https", String, "URL", "the proxy for https"),
		key("exclude", List, "host, .suffix, *.suffix or CIDR", "what is reached without the proxy"),
		key("pac", String, "URL", "a PAC file"),
		key("embeddedPac", String, "JavaScript", "a PAC script itself"),
	}
}

// Find returns the key of that name.
func Find(name string) (Key, bool) {
	for _, k := range Keys() {
		if k.Name == name {
			return k, true
		}
	}
	return Key{}, false
}

// isGroup reports whether name is the first part of some keys.
func isGroup(name string) bool {
	for _, k := range Keys() {
		if strings.HasPrefix(k.Name, name+".") {
			return true
		}
	}
	return false
}

// isWhole reports the groups that an admin file locks as one, without "value".
func isWhole(name string) bool { return name == "proxy" || name == "containersProxy" }

// unused are keys of Docker Desktop's that do not concern networking, or this
// operating system; a dot names a part of a group of ours.
func unused() []string {
	return []string{
		"allowBetaFeatures", "allowExperimentalFeatures", "analyticsEnabled", "blockDockerLoad",
		"desktopTerminalEnabled", "disableUpdate", "displayedOnboarding", "enableDockerAI", "enableDockerMCPToolkit",
		"enableInference", "enableInferenceGPUVariant", "enableInferenceTCP", "enableInferenceTCPPort",
		"enhancedContainerIsolation", "exposeDockerAPIOnTCP2375", "extensionsEnabled", "extensionsPrivateMarketplace",
		"extensionsPrivateMarketplaceAdminContactURL", "filesharingAllowedDirectories", "kubernetes",
		"scout", "silentModulesUpdate", "updateCheck", "useContainerdSnapshotter", "useGrpcfuse",
		"useVirtualizationFrameworkRosetta", "useVirtualizationFrameworkVirtioFS", "windowsContainers",
		"linuxVM.wslEngineEnabled", "proxy.windowsDockerdPort", "proxy.enableKerberosNtlm", "containersProxy.windowsDockerdPort",
	}
}
