package archtest

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// layers are the module's packages from the bottom up. A package imports from
// layers below its own, never from its own layer or above. A new package gets a
// place here and a line in docs/architecture.md.
func layers() [][]string {
	return [][]string{
		{"internal/portolan", "internal/system", "internal/proxy/entry", "internal/image", "internal/confine", "internal/mmsg", "internal/poll", "internal/socket", "internal/sockdiag", "internal/scarce"},
		{"internal/datapath", "internal/profile", "internal/api", "internal/settings", "internal/lab", "internal/testimage"},
		{"internal/relay", "internal/dns", "internal/router", "internal/spec", "internal/agentlink", "internal/publish/forward", "internal/client", "internal/enginesocket", "internal/buildstep", "internal/dockercontext", "internal/proxy"},
		{"internal/egress", "internal/proxy/server", "internal/proxy/socks", "internal/publish", "internal/shim", "internal/engine", "internal/hostservice", "internal/hostnet"},
		{"internal/machine", "internal/guest", "internal/doctor"},
		{"internal/agent", "internal/connect"},
		{"internal/daemon", "internal/cli", "internal/stage"},
		{"cmd/portolan", "cmd/portolan-agent", "cmd/portolan-demo"},
	}
}

// restriction says who alone may import something.
type restriction struct {
	what string   // an import path, or the beginning of one that ends at a slash
	by   []string // packages; a trailing /... takes all below
	why  string
}

// restrictions hold for everything but tests.
func restrictions() []restriction {
	kernel := []string{"internal/router", "internal/machine", "internal/guest", "internal/engine", "internal/hostnet", "internal/doctor", "internal/lab"}
	// The daemon reads the host's routes and sockets, and asks for no more; the connector adds some, for whom asks root to.
	readers := append([]string{"internal/daemon", "internal/connect", "internal/sockdiag"}, kernel...)
	// What only tests and benchmarks import.
	tests := []string{"internal/lab", "internal/testimage", "internal/stage"}
	return []restriction{
		{
			module + "/internal/api",
			[]string{"internal/agentlink", "internal/client", "internal/publish", "internal/shim", "internal/engine", "internal/agent", "internal/connect", "internal/doctor", "internal/cli", "internal/daemon", "internal/stage"},
			"what carries packets does not know that an API exists",
		},
		{
			module + "/internal/router",
			[]string{"internal/machine", "internal/connect", "internal/daemon", "cmd/portolan"},
			"everybody else speaks to internal/datapath, so that a second datapath fits",
		},
		{module + "/internal/settings", []string{"internal/cli", "internal/daemon"}, "the daemon hands each part what it needs to know"},
		{module + "/internal/lab", tests, "it is for tests"},
		{module + "/internal/testimage", tests, "it is for tests"},
		{module + "/internal/stage", tests, "it is for tests"},
		{module + "/cmd", nil, "a main only wires"},
		{"gvisor.dev/gvisor", nil, "a later datapath may, alone"},
		{"github.com/vishvananda", readers, "the host's network is not set up by us, only namespaces of our own"},
		{"github.com/google/nftables", kernel, "the host's network is not set up by us, only namespaces of our own"},
		{"github.com/spf13", []string{"internal/cli", "cmd/portolan"}, "flags are the CLI's business"},
		{"github.com/moby/moby", []string{"internal/engine", "internal/agent", "internal/daemon", "internal/doctor", "internal/cli"}, "the datapath works with any engine"},
		{"github.com/miekg/dns", []string{"internal/dns", "internal/lab"}, "names are the resolver's business"},
		{"testing", tests, "programs carry no tests"},
	}
}

// forbiddenPrograms set the kernel up; that goes through netlink and nftables.
func forbiddenPrograms() []string {
	return []string{"ip", "nft", "iptables", "ip6tables", "sysctl", "tc", "brctl", "ifconfig", "route", "modprobe"}
}

// violations names everything that breaks a rule, one line each.
func violations(files []file) []string {
	var found []string
	place := places()
	for _, f := range files {
		if f.test {
			continue
		}
		if layerOf(place, f.pkg) < 0 && strings.HasPrefix(f.pkg, "internal/") && f.pkg != "internal/archtest" {
			found = append(found, fmt.Sprintf("%s: %s has no place in the layers of internal/archtest", f.name, f.pkg))
		}
		for _, imported := range f.imports {
			found = append(found, judge(place, f, imported)...)
		}
		for _, program := range f.programs {
			if slices.Contains(forbiddenPrograms(), path.Base(program)) && f.pkg != "internal/lab" {
				found = append(found, fmt.Sprintf("%s starts %s: use netlink or nftables", f.name, program))
			}
		}
	}
	return found
}

// judge looks at one import.
func judge(place map[string]int, f file, imported string) []string {
	var found []string
	if f.pkg == "internal/portolan" && (foreign(imported) || strings.HasPrefix(imported, module)) {
		found = append(found, fmt.Sprintf("%s imports %s: the nouns need the standard library only", f.name, imported))
	}
	if own, ok := ours(imported); ok {
		from, to := layerOf(place, f.pkg), layerOf(place, own)
		if from >= 0 && to >= from && !related(own, f.pkg) {
			found = append(found, fmt.Sprintf("%s imports %s, which lies in its own layer or above", f.name, own))
		}
	}
	for _, r := range restrictions() {
		own, _ := ours(imported)
		if under(imported, r.what) && !related(own, f.pkg) && !slices.ContainsFunc(r.by, func(by string) bool { return under(f.pkg, by) }) {
			found = append(found, fmt.Sprintf("%s imports %s: %s", f.name, imported, r.why))
		}
	}
	return found
}

// under reports whether p is root or lies below it.
func under(p, root string) bool { return p == root || strings.HasPrefix(p, root+"/") }

// related reports whether one package lies in the other's folder: they belong
// together.
func related(a, b string) bool { return under(a, b) || under(b, a) }

// places turns layers round.
func places() map[string]int {
	place := make(map[string]int)
	for i, layer := range layers() {
		for _, pkg := range layer {
			place[pkg] = i
		}
	}
	return place
}

// layerOf finds the layer of a package or of the nearest one above it, -1 for
// none (tests and benchmarks of the whole).
func layerOf(place map[string]int, pkg string) int {
	for ; pkg != "."; pkg = path.Dir(pkg) {
		if i, ok := place[pkg]; ok {
			return i
		}
	}
	return -1
}
