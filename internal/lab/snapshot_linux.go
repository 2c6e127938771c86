package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// restless reports whether a file of /proc/sys/net changes by itself, with the
// traffic or with the machine's memory, and says nothing about configuration.
func restless(path string) bool {
	switch path {
	case "netfilter/nf_conntrack_count": // the flows of this moment
		return true
	case "ipv4/tcp_fastopen_key": // made up when the first server asks for TCP fast open, as dnsmasq does
		return true
	}
	return false
}

// Snapshot is the node's network configuration as text: interfaces with their
// addresses, routes of all tables, rules, all readable files of /proc/sys/net
// but those that are restless, and the nftables ruleset where the program
// nft is there to list it. Two equal texts mean that nothing was configured in
// between.
func (n *Node) Snapshot() (string, error) {
	var out strings.Builder
	for _, part := range []struct {
		name string
		list func() ([]string, error)
	}{
		{"interfaces", n.listInterfaces},
		{"routes", n.listRoutes},
		{"rules", n.listRules},
		{"sysctls", n.listSysctls},
		{"nftables", n.listRuleset},
	} {
		lines, err := part.list()
		if err != nil {
			return "", fmt.Errorf("take snapshot of %s, %s: %w", n.Name, part.name, err)
		}
		fmt.Fprintf(&out, "# %s\n%s\n", part.name, strings.Join(lines, "\n"))
	}
	return out.String(), nil
}

// Diff lists the lines that one of two snapshots has and the other has not,
// with "-" or "+" before them.
func Diff(before, after string) []string {
	old, now := strings.Split(before, "\n"), strings.Split(after, "\n")
	var diff []string
	for _, side := range []struct {
		sign        string
		have, other []string
	}{{"-", old, now}, {"+", now, old}} {
		known := map[string]int{}
		for _, line := range side.other {
			known[line]++
		}
		for _, line := range side.have {
			if known[line]--; known[line] < 0 {
				diff = append(diff, side.sign+line)
			}
		}
	}
	return diff
}

func (n *Node) listInterfaces() ([]string, error) {
	links, err := n.nl.LinkList()
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, link := range links {
		a := link.Attrs()
		lines = append(lines, fmt.Sprintf("%d %s %s mtu %d mac %s flags %s state %s master %d alias %q",
			a.Index, a.Name, link.Type(), a.MTU, a.HardwareAddr, a.Flags, a.OperState, a.MasterIndex, a.Alias))
		addrs, err := n.nl.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, addr := range addrs {
			lines = append(lines, fmt.Sprintf("%d %s addr %s flags %#x scope %d", a.Index, a.Name, addr.IPNet, addr.Flags, addr.Scope))
		}
	}
	slices.Sort(lines)
	return lines, nil
}

func (n *Node) listRoutes() ([]string, error) {
	var lines []string
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := n.nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			lines = append(lines, fmt.Sprintf("table %d type %d metric %d %s", r.Table, r.Type, r.Priority, r))
		}
	}
	slices.Sort(lines)
	return lines, nil
}

func (n *Node) listRules() ([]string, error) {
	var lines []string
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := n.nl.RuleList(family)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			lines = append(lines, fmt.Sprintf("family %d %s mark %#x type %d", family, r, r.Mark, r.Type))
		}
	}
	slices.Sort(lines)
	return lines, nil
}

// listSysctls leaves out what can't be read: files to write to only, and
// secrets that are not set.
func (n *Node) listSysctls() ([]string, error) {
	const root = "/proc/sys/net"
	var lines []string
	err := n.Do(func() error {
		return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, _ := filepath.Rel(root, path)
			if text, err := os.ReadFile(path); err == nil && !restless(rel) {
				lines = append(lines, rel+" = "+strings.Join(strings.Fields(string(text)), " "))
			}
			return nil
		})
	})
	slices.Sort(lines)
	return lines, err
}

func (n *Node) listRuleset() ([]string, error) {
	if _, err := exec.LookPath("nft"); errors.Is(err, exec.ErrNotFound) {
		return []string{"nft is not installed"}, nil
	}
	out, err := n.Command(context.Background(), "nft", "--stateless", "list", "ruleset").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("list ruleset: %w: %s", err, out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
}
