package archtest

import (
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// root is the repository, seen from this package.
const root = "../.."

func TestImports(t *testing.T) {
	for _, v := range violations(readTree(t, os.DirFS(root))) {
		t.Error(v)
	}
}

// The rules see what they forbid, and let pass what they allow.
func TestRulesCanFail(t *testing.T) {
	cases := []struct{ name, file, text, want string }{
		{"nouns import a module", "internal/portolan/x.go", `import "golang.org/x/sys/unix"`, "the nouns need the standard library only"},
		{"nouns import ours", "internal/portolan/x.go", `import "github.com/portolan-net/portolan/internal/system"`, "the nouns need"},
		{"nouns import the standard library", "internal/portolan/x.go", `import "net/netip"`, ""},
		{"upwards", "internal/relay/x.go", `import "github.com/portolan-net/portolan/internal/egress"`, "own layer or above"},
		{"sideways", "internal/dns/x.go", `import "github.com/portolan-net/portolan/internal/relay"`, "own layer or above"},
		{"downwards", "internal/egress/x.go", `import "github.com/portolan-net/portolan/internal/relay"`, ""},
		{"own subfolder", "internal/router/x.go", `import "github.com/portolan-net/portolan/internal/router/wire"`, ""},
		{"from a subfolder", "internal/lab/x/x.go", `import "github.com/portolan-net/portolan/internal/lab"`, ""},
		{"api below", "internal/egress/x.go", `import "github.com/portolan-net/portolan/internal/api"`, "does not know that an API exists"},
		{"router by egress", "internal/egress/x.go", `import "github.com/portolan-net/portolan/internal/router"`, "so that a second datapath fits"},
		{"router by a darwin file", "internal/egress/x_darwin.go", `import "github.com/portolan-net/portolan/internal/router"`, "so that a second datapath fits"},
		{"router by the daemon", "internal/daemon/x.go", `import "github.com/portolan-net/portolan/internal/router"`, ""},
		{"lab in a program", "internal/daemon/x.go", `import "github.com/portolan-net/portolan/internal/lab"`, "it is for tests"},
		{"lab in a test", "internal/daemon/x_test.go", `import "github.com/portolan-net/portolan/internal/lab"`, ""},
		{"gvisor", "internal/router/x.go", `import "gvisor.dev/gvisor/pkg/tcpip"`, "a later datapath"},
		{"netlink on the host's side", "internal/egress/x.go", `import "github.com/vishvananda/netlink"`, "not set up by us"},
		{"netlink in the router", "internal/router/x.go", `import "github.com/vishvananda/netlink"`, ""},
		{"a package without a place", "internal/util/x.go", ``, "no place in the layers"},
		{"a program that sets up the kernel", "internal/router/x.go", `import "os/exec"; var _ = exec.Command("/usr/sbin/nft", "list")`, "use netlink"},
		{"the same with a context", "internal/router/x.go", `import "os/exec"; var _ = exec.CommandContext(nil, "ip", "link")`, "use netlink"},
		{"another program", "internal/engine/x.go", `import "os/exec"; var _ = exec.Command("dockerd")`, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tree := fstest.MapFS{c.file: &fstest.MapFile{Data: []byte("package x\n" + c.text + "\n")}}
			got := strings.Join(violations(readTree(t, tree)), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("violations = %q, want %q in it", got, c.want)
			}
		})
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	documented := make(map[string]bool)
	for _, f := range readTree(t, os.DirFS(root)) {
		if !f.test {
			documented[f.pkg] = documented[f.pkg] || f.doc
		}
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment", pkg)
		}
	}
}

// minDocumented is the share of exported names that have a comment. Not all:
// Read, Close and String of a well-known interface need none.
const minDocumented = 0.97

func TestExportedNamesSayWhatTheyAre(t *testing.T) {
	exported, silent := 0, []string{}
	for _, f := range readTree(t, os.DirFS(root)) {
		if f.test {
			continue
		}
		exported += f.exported
		for _, name := range f.silent {
			silent = append(silent, f.name+" "+name)
		}
	}
	if exported == 0 {
		t.Fatal("found no exported name at all")
	}
	if share := 1 - float64(len(silent))/float64(exported); share < minDocumented {
		t.Errorf("%.1f %% of %d exported names have a comment, want %.0f %%. Without:\n%s",
			100*share, exported, 100*minDocumented, strings.Join(silent, "\n"))
	}
}

// Every package has its line on the architecture page, and the page names no
// package of the past.
func TestArchitecturePageNamesEveryPackage(t *testing.T) {
	page := read(t, "docs/architecture.md")
	there := map[string]bool{}
	for _, f := range readTree(t, os.DirFS(root)) {
		there[f.pkg] = true
	}
	for _, layer := range layers() {
		for _, pkg := range layer {
			if there[pkg] && !strings.Contains(page, "`"+pkg+"`") {
				t.Errorf("docs/architecture.md does not name `%s`", pkg)
			}
		}
	}
	for _, m := range regexp.MustCompile("`((?:internal|cmd)/[a-z/-]+)`").FindAllStringSubmatch(page, -1) {
		if !there[m[1]] {
			t.Errorf("docs/architecture.md names %s, which does not exist", m[1])
		}
	}
}

// Every module that our code imports has its reason in docs/dependencies.md,
// and nothing else stands there.
func TestDependenciesHaveReasons(t *testing.T) {
	reasons := tableKeys(read(t, "docs/dependencies.md"), "main module")
	if len(reasons) == 0 {
		t.Fatal("docs/dependencies.md: no table under the heading that names the main module")
	}
	used := directModules(t)
	for _, m := range used {
		if !slices.Contains(reasons, m) {
			t.Errorf("docs/dependencies.md gives no reason for %s", m)
		}
	}
	for _, m := range reasons {
		if !slices.Contains(used, m) {
			t.Errorf("docs/dependencies.md lists %s, which nothing imports", m)
		}
	}
}

// directModules maps our foreign imports to the modules of go.mod.
func directModules(t *testing.T) []string {
	t.Helper()
	required := regexp.MustCompile(`(?m)^\s*(?:require )?(\S+\.\S+/\S+) v`).FindAllStringSubmatch(read(t, "go.mod"), -1)
	var used []string
	for _, f := range readTree(t, os.DirFS(root)) {
		for _, imported := range f.imports {
			if !foreign(imported) {
				continue
			}
			best := ""
			for _, m := range required {
				if under(imported, m[1]) && len(m[1]) > len(best) {
					best = m[1]
				}
			}
			if best == "" {
				t.Errorf("%s imports %s, which no module of go.mod holds", f.name, imported)
			} else if !slices.Contains(used, best) {
				used = append(used, best)
			}
		}
	}
	return used
}

// tableKeys returns the first cells, in backquotes, of the Markdown table under
// the heading that contains title.
func tableKeys(page, title string) []string {
	var keys []string
	inside := false
	for line := range strings.Lines(page) {
		switch {
		case strings.HasPrefix(line, "#"):
			inside = strings.Contains(line, title)
		case inside && strings.HasPrefix(line, "| `"):
			key, _, _ := strings.Cut(strings.TrimPrefix(line, "| `"), "`")
			keys = append(keys, key)
		}
	}
	return keys
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := fs.ReadFile(os.DirFS(root), name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
