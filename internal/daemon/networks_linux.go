package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/settings"
)

// network is what the engine tells of one.
type network struct {
	Name                   string
	Driver                 string
	EnableIPv4, EnableIPv6 bool
	Options                map[string]string
	Labels                 map[string]string
}

// defaultFamily is the engine's option that says what a new network has unless
// its maker says otherwise. A network keeps it with its other options.
const defaultFamily = "com.docker.network.enable_ipv"

// followed reports whether a network has what the default was when it was made,
// and what that was; one whose maker chose otherwise is as it should be.
func (n network) followed(version string, has bool) (was, known bool) {
	was, err := strconv.ParseBool(n.Options[defaultFamily+version])
	return was, err == nil && was == has
}

// outdated says how a network differs from one that would be made now, "" for not.
func (n network) outdated(mode portolan.Mode) string {
	if n.Driver != "bridge" || n.Name == "bridge" || n.Name == "docker_gwbridge" {
		return ""
	}
	var differs []string
	for _, f := range []struct {
		version   string
		has, want bool
	}{{"4", n.EnableIPv4, mode.IPv4()}, {"6", n.EnableIPv6, mode.IPv6()}} {
		was, known := n.followed(f.version, f.has)
		switch {
		case !known || was == f.want:
		case was:
			differs = append(differs, fmt.Sprintf("has IPv%s, which leads nowhere now", f.version))
		default:
			differs = append(differs, "has no IPv"+f.version)
		}
	}
	if len(differs) == 0 {
		return ""
	}
	again := "docker network rm " + n.Name
	if project := n.Labels["com.docker.compose.project"]; project != "" {
		again = "docker compose -p " + project + " down, and up"
	}
	return fmt.Sprintf("%s %s: network %s %s, until it is made again: %s", settings.KeyMode, mode, n.Name, strings.Join(differs, " and "), again)
}

// outdatedNetworks lists the networks that another mode made.
func (d *daemon) outdatedNetworks(ctx context.Context, mode portolan.Mode) []string {
	var all []network
	err := askEngine(ctx, d.Profile.EngineSocket(), "/networks", func(r io.Reader) error { return json.NewDecoder(r).Decode(&all) })
	if err != nil {
		return nil // the engine's own state says so
	}
	var found []string
	for _, n := range all {
		if text := n.outdated(mode); text != "" {
			found = append(found, text)
		}
	}
	slices.Sort(found)
	return found
}
