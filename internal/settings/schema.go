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
	Socket  Type = "socket"           // a path, "none", or "" for the usual places
	// What is written about proxies; see package entry.
	ProxyURL   Type = "proxy URL" // its password is never shown
	Exclusions Type = "list of destinations"
	PAC        Type = "URL or path"
	PortSet    Type = "ports"
	Options    Type = "object" // also as JSON in a string, which is Docker Desktop's way
)

// Applies says when a changed value counts.
type Applies string

// When a change counts.
const (
	Live    Applies = "at once"
	Engine  Applies = "at once in the router; the engine restarts for the rest, containers go on"
	Restart Applies = "the engine restarts, containers go on"
	Network Applies = "the machine's network and the engine restart: containers go on, open connections end"
)

// Restarts reports whether the engine restarts for a change.
func (a Applies) Restarts() bool { return a == Engine || a == Restart || a == Network }

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
	KeySOCKS      = "portolan.socks"
	KeyVariables  = "portolan.proxyVariables"
	KeyCertInside = "portolan.containerCertificates"
	KeyConnect    = "portolan.connect"
	KeyHostNet    = "hostNetworkingEnabled"
	KeyRandom     = "portolan.randomPorts"
	KeySSHAgent   = "portolan.sshAgent"
	KeyUDPOffload = "portolan.udpOffload"
)

// The values of KeyConnect.
const (
	ConnectAll       = "all"
	ConnectPublished = "published"
	ConnectOff       = "off"
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
			Help:   "where published ports listen: everywhere, on loopback unless -p names an address, on loopback whatever -p says; ports that are published move",
		},
		{Name: KeyRandom, Type: Ports, Default: `"49000-49900"`, Unit: "FIRST-LAST", Applies: Restart, Ours: true, Help: "where -P and -p ADDRESS::PORT find a port; Portolan's own connections keep out of it"},
		{Name: KeySubnet4, Type: Subnet4, Default: `"192.168.65.0/24"`, Unit: "CIDR", Applies: Network, Help: "the network between router and machine; without it another one is chosen where the host uses this one"},
		{Name: KeySubnet6, Type: Subnet6, Default: `"fdc4:f303:9324::/64"`, Unit: "CIDR", Applies: Network, Ours: true, Help: "the same for IPv6"},
		{Name: KeyEngine, Type: Options, Default: `{}`, Unit: "keys of dockerd's daemon.json", Applies: Restart, Help: "the engine's own options: registry mirrors, log driver, address pools; keys that Portolan sets itself are refused"},
		{Name: KeyLoopback, Type: Boolean, Default: `true`, Applies: Live, Ours: true, Help: "whether host.docker.internal leads to the host's loopback; false answers \"prohibited\""},
		{Name: KeyHostNet, Type: Boolean, Default: `true`, Applies: Live, Help: "whether ports of containers with --network host are on the host, and the host's loopback services on theirs; see host-networking.md"},
		{Name: KeyHostNames, Type: Address, Default: `"127.0.0.1:5399"`, Unit: "ADDRESS:PORT on loopback, or nothing", Applies: Live, Ours: true, Help: "where this host asks for NAME.portolan.internal, the names of containers; see dns.md"},
		{Name: KeySOCKS, Type: Address, Default: `""`, Unit: "ADDRESS:PORT on loopback, or nothing", Applies: Live, Ours: true, Help: "where programs of this host find a SOCKS5 server that leads to containers, by address and by name; see proxies.md"},
		{
			Name: KeyConnect, Type: String, Values: []string{ConnectAll, ConnectPublished, ConnectOff}, Applies: Live, Ours: true,
			Help: "what this host reaches of containers by portolan connect: all ports, those that are published, or nothing, which also ends what is connected; ping with the first two",
		},
		{Name: KeySSHAgent, Type: Socket, Default: `""`, Unit: "a path, none, or nothing for SSH_AUTH_SOCK and the usual places", Applies: Live, Ours: true, Help: "the ssh-agent that containers reach at /run/host-services/ssh-auth.sock; see host-services.md"},
	}
	keys = append(keys,
		Key{Name: KeyVariables, Type: Boolean, Default: `true`, Applies: Live, Ours: true, Help: "whether new containers and builds get HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY while a proxy is configured; see proxies.md"},
		Key{Name: KeyCertInside, Type: Boolean, Default: `false`, Applies: Live, Ours: true, Help: "whether new containers and steps of builds get the host's CA certificates, as a file and in the variables that name it; see proxies.md"},
	)
	keys = append(keys, Key{Name: KeyUDPOffload, Type: Boolean, Default: `false`, Applies: Live, Ours: true, Help: "whether datagrams of one size that follow each other go through the kernel as one, and come as one (UDP_SEGMENT, UDP_GRO); only where a test finds that it works; see settings.md"})
	keys = append(keys, proxyKeys("proxy", "what the engine uses to pull and push", "system", "manual", "none")...)
	keys = append(keys, proxyKeys("containersProxy", "what containers use", "same-as-host", "system", "manual", "none")...)
	keys = append(keys,
		Key{Name: "portolan.proxyUser", Type: String, Default: `""`, Applies: Live, Ours: true, Help: "who logs in at proxies whose URL names nobody"},
		Key{Name: "portolan.proxyPasswordCommand", Type: String, Default: `""`, Unit: "for sh", Applies: Live, Ours: true, Help: "prints the password for proxies whose URL holds none; runs as the user who typed portolan up"},
	)
	keys = append(keys, Key{
		Name: "containersProxy.transparentPorts", Type: PortSet, Default: `""`, Unit: "none, a list such as 80,443, or *", Applies: Live,
		Help: "TCP ports that go through the proxy unasked; * without a proxy blocks what is not excluded",
	})
	for i, k := range keys {
		if k.Values != nil {
			keys[i].Default = encode(k.Values[0])
		}
	}
	return keys
}

// proxyKeys are the parts of one of the two proxy objects.
func proxyKeys(group, use string, modes ...string) []Key {
	key := func(name string, t Type, unit, help string) Key {
		k := Key{Name: group + "." + name, Type: t, Unit: unit, Applies: Live, Default: `""`, Help: help + " (" + use + ")"}
		if t == Exclusions {
			k.Default = `[]`
		}
		return k
	}
	mode := key("mode", String, "", "where the proxy comes from: this host's own settings, the keys below, nowhere")
	mode.Values = modes
	return []Key{
		mode,
		key("http", ProxyURL, "http, https, socks5 or socks5h URL", "the proxy for http, in mode manual"),
		key("https", ProxyURL, "as http", "the proxy for https and all else, in mode manual; a SOCKS proxy serves http, too, when that has none"),
		key("exclude", Exclusions, "host, .suffix, *.suffix, address or CIDR, each with :port if wanted", "what is reached without the proxy, in every mode"),
		key("pac", PAC, "http or https URL, or a file", "a PAC script, in mode manual"),
		key("embeddedPac", String, "JavaScript", "a PAC script itself, in mode manual; goes before pac"),
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
		"enableInference", "enableInferenceCORS", "enableInferenceGPUVariant", "enableInferenceTCP", "enableInferenceTCPPort",
		"enhancedContainerIsolation", "exposeDockerAPIOnTCP2375", "extensionsEnabled", "extensionsPrivateMarketplace",
		"extensionsPrivateMarketplaceAdminContactURL", "filesharingAllowedDirectories", "kubernetes",
		"scout", "silentModulesUpdate", "updateCheck", "useContainerdSnapshotter", "useGrpcfuse",
		"useVirtualizationFrameworkRosetta", "useVirtualizationFrameworkVirtioFS", "windowsContainers",
		"linuxVM.wslEngineEnabled", "proxy.windowsDockerdPort", "proxy.enableKerberosNtlm", "containersProxy.windowsDockerdPort",
	}
}
