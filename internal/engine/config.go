package engine

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/portolan-net/portolan/internal/portolan"
)

// Layout says where the engine keeps its things, as the machine sees them.
type Layout struct {
	RuntimeDir string        // the agent's directory: configuration and pid files
	Socket     string        // the engine's socket that the daemon passes through
	Shim       string        // what the engine runs as its userland proxy
	StepRunc   string        // by which BuildKit runs steps
	BinDir     string        // dockerd and its programs
	Link       portolan.Link // the machine's link
	InitPath   string        // docker-init, "" when there is none
	Rootless   bool          // the machine is an ordinary user's
	Version    string        // of dockerd; "" for the bundled one's
	Mode       portolan.Mode // what new networks get
	Swarm      bool          // dockerd is in swarm mode, or about to be: no live-restore
}

// engineSocket is where programs in the machine expect the engine.
const engineSocket = "/run/docker.sock"

const containerdSocket = "/run/containerd/containerd.sock"

// owned are the keys of daemon.json on which the network path rests.
func (l Layout) owned() map[string]any {
	owned := map[string]any{
		"hosts":                []string{"unix://" + engineSocket, "unix://" + l.Socket},
		"containerd":           containerdSocket,
		"data-root":            "/var/lib/docker",
		"exec-root":            "/run/docker",
		"pidfile":              "/run/docker.pid",
		"ip-masq":              false, // the router must see the container's own address
		"allow-direct-routing": true,  // else replies to container addresses are dropped
		"userland-proxy":       true,
		"userland-proxy-path":  l.Shim,
		"ipv6":                 l.Mode.IPv6(),
		"dns":                  l.carried(l.Link.DNS()),
		"host-gateway-ips":     l.carried(l.Link.Host()),
		"default-network-opts": map[string]map[string]string{"bridge": {
			"com.docker.network.bridge.enable_ip_masquerade": "false",
			"com.docker.network.enable_ipv4":                 strconv.FormatBool(l.Mode.IPv4()),
			"com.docker.network.enable_ipv6":                 strconv.FormatBool(l.Mode.IPv6()),
		}},
	}
	if l.knowsMarks() {
		owned["bridge-accept-fwmark"] = strconv.Itoa(AcceptMark)
	}
	if l.InitPath != "" {
		owned["init-path"] = l.InitPath
	}
	return owned
}

// AcceptMark is the firewall mark of packets that the engine lets into its
// networks whether it published their port or not. The machine's own table sets
// it on what comes by the link: only the daemon dials there, and only what is
// published, by the engine or by `portolan ports add`; and a host that is
// connected (internal/connect), which may reach all ports.
const AcceptMark = 0x506f

// knowsMarks reports whether dockerd has bridge-accept-fwmark: since 29.
func (l Layout) knowsMarks() bool {
	major, _, _ := strings.Cut(strings.TrimPrefix(l.Version, "v"), ".")
	n, err := strconv.Atoi(major)
	return l.Version == "" || err == nil && n >= 29
}

// carried are those of a place's addresses that containers can reach.
func (l Layout) carried(place portolan.Pair) []string {
	var addrs []string
	for _, addr := range []netip.Addr{place.V4, place.V6} {
		if l.Mode.Carries(addr) {
			addrs = append(addrs, addr.String())
		}
	}
	return addrs
}

// CheckOptions refuses options that Portolan sets itself.
func CheckOptions(options map[string]any) error {
	// Which keys are Portolan's does not depend on the layout.
	_, err := Layout{Link: portolan.DefaultLink(), InitPath: "any"}.DaemonJSON(options)
	return err
}

// defaults are keys that the user's engine options may replace.
func defaults() map[string]any {
	return map[string]any{
		"live-restore": true, // dockerd may die, containers go on
		// No systemd runs in the machine. With --rootless this means none.
		"exec-opts": []string{"native.cgroupdriver=cgroupfs"},
		"proxies":   proxies(),
	}
}

// DaemonJSON is dockerd's configuration file: our defaults, the user's options
// over them, and the keys that Portolan owns, which options must not name.
func (l Layout) DaemonJSON(options map[string]any) ([]byte, error) {
	merged := defaults()
	owned := l.owned()
	for key, value := range options {
		if _, taken := owned[key]; taken {
			return nil, fmt.Errorf("engine option %q: Portolan sets it itself; take it out", key)
		}
		merged[key] = value
	}
	maps.Copy(merged, owned)
	if l.Swarm {
		merged["live-restore"] = false // dockerd takes only one of them
	}
	return json.MarshalIndent(merged, "", "  ")
}

// ContainerdTOML is containerd's configuration file, format version 3. The CRI
// plugins serve Kubernetes only.
func (l Layout) ContainerdTOML() []byte {
	return fmt.Appendf(nil, `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
[grpc]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = %q
`, containerdSocket, filepath.Join(l.RuntimeDir, "opt"))
}
