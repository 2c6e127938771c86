package daemon

import (
	"context"
	"encoding/json"
	"io"
	"strconv"
	"strings"

	"github.com/portolan-net/portolan/internal/system"
)

// starting is what the engine says of a container that is about to start.
type starting struct {
	HostConfig struct {
		NetworkMode     string
		PublishAllPorts bool
		PortBindings    map[string][]struct{ HostPort string }
	}
}

// beforeStart is enginesocket.Config.BeforeStart: a container on the host network
// finds the host's services from its first instruction on, and the ports that
// another one names are seen as the host has them. Where it fails that is so a
// moment later, or the engine says what is wrong.
func (d *daemon) beforeStart(ctx context.Context, container string) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var c starting
	err := askEngine(ctx, d.Profile.EngineSocket(), "/containers/"+container+"/json", func(body io.Reader) error {
		return json.NewDecoder(body).Decode(&c)
	})
	if err != nil {
		return
	}
	if h := d.hostNet.Load(); h != nil && c.HostConfig.NetworkMode == "host" {
		h.prepare(ctx)
	}
	if b := d.busy.Load(); b != nil && c.HostConfig.NetworkMode != "host" {
		named, random := c.hostPorts()
		b.prepare(ctx, named, random)
	}
}

// hostPorts are the ports of the host that the container names, and whether it
// leaves some to the engine.
func (c starting) hostPorts() (named []system.PortRange, random bool) {
	random = c.HostConfig.PublishAllPorts
	for _, bindings := range c.HostConfig.PortBindings {
		for _, b := range bindings {
			if r, ok := parseHostPort(b.HostPort); ok {
				named = append(named, r)
			} else {
				random = true
			}
		}
	}
	return named, random
}

// parseHostPort reads what the engine's API calls HostPort: "80", "8000-8010", or
// nothing, which is no port.
func parseHostPort(text string) (r system.PortRange, ok bool) {
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	low, err := strconv.ParseUint(first, 10, 16)
	high, errHigh := strconv.ParseUint(last, 10, 16)
	return system.PortRange{First: uint16(low), Last: uint16(high)}, err == nil && errHigh == nil && 0 < low && low <= high
}
