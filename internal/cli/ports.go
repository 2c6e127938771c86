package cli

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/client"
	"github.com/portolan-net/portolan/internal/portolan"
)

const portsHelp = `Lists the ports of this host that lead to containers: published by docker's -p
and -P, by compose, by services of a swarm, or by 'portolan ports add', and those
that containers with --network host open. A port that can't be reached now says
why.

CONNECTIONS counts TCP connections and clients of UDP since the port was
published, and in brackets those that stand; IN and OUT are payload bytes from
and to clients.`

const portsAddHelp = `Publishes a port of a container that runs, which docker itself can't. PORT is
written as for docker's -p: [ADDRESS:]HOSTPORT:CONTAINERPORT[/tcp|/udp].

The port is published whenever the container runs, also after 'portolan down'
and 'up', and is forgotten when the container is removed.`

func (g *global) portsCommand() *cobra.Command {
	list := &cobra.Command{
		Use:   "ports",
		Short: "List published ports; publish on running containers",
		Long:  portsHelp,
		Example: `  portolan ports
  portolan ports add web 8080:80
  portolan ports add web 127.0.0.1:5353:53/udp
  portolan ports rm web 8080`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ports, err := g.client().Ports(cmd.Context())
			if err != nil {
				return err
			}
			if g.json {
				return g.printJSON(ports)
			}
			g.printPorts(ports, time.Now())
			return nil
		},
	}
	list.AddCommand(
		g.portChange("add CONTAINER PORT", "Publish a port of a running container", portsAddHelp, true, (*client.Client).AddPort),
		g.portChange("rm CONTAINER PORT", "End what add published",
			"Ends what add published. PORT is written as for add; the container's port may be left out.", false, (*client.Client).RemovePort))
	return list
}

// portChange is a command about one port of one container.
func (g *global) portChange(use, short, long string, whole bool, do func(*client.Client, context.Context, api.PortRequest) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("want a container and a port, such as: portolan ports %s web 8080:80", cmd.Name())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := parsePort(args[1], whole)
			if err != nil {
				return err
			}
			request.Container = args[0]
			return do(g.client(), cmd.Context(), request)
		},
	}
}

// parsePort reads [ADDRESS:]HOSTPORT:CONTAINERPORT[/PROTO]; unless whole,
// :CONTAINERPORT may be missing.
func parsePort(text string, whole bool) (api.PortRequest, error) {
	wrong := func(why string) (api.PortRequest, error) {
		return api.PortRequest{}, usagef("port %q: %s; want [ADDRESS:]HOSTPORT:CONTAINERPORT[/tcp|/udp]", text, why)
	}
	rest, proto, found := strings.Cut(text, "/")
	r := api.PortRequest{Proto: portolan.TCP}
	if found && (r.Proto.UnmarshalText([]byte(strings.ToLower(proto))) != nil || r.Proto != portolan.TCP && r.Proto != portolan.UDP) {
		return wrong("only tcp and udp can be published")
	}
	address := ""
	if end := strings.LastIndex(rest, "]:"); strings.HasPrefix(rest, "[") && end > 0 {
		address, rest = rest[1:end], rest[end+2:]
	}
	words := strings.Split(rest, ":")
	if address == "" && len(words) > 1 && strings.Contains(words[0], ".") {
		address, words = words[0], words[1:]
	}
	if address != "" {
		host, err := netip.ParseAddr(address)
		if err != nil {
			return wrong("no address: " + address)
		}
		r.Host = host
	}
	if len(words) > 2 || whole && len(words) != 2 {
		return wrong("a port of the host and one of the container are needed")
	}
	for i, into := range []*uint16{&r.HostPort, &r.Port}[:len(words)] {
		n, err := strconv.ParseUint(words[i], 10, 16)
		if err != nil || n == 0 {
			return wrong("no port number: " + words[i])
		}
		*into = uint16(n)
	}
	return r, nil
}

func (g *global) printPorts(ports []api.Port, now time.Time) {
	w := tabwriter.NewWriter(g.Out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ADDRESS\tPORT\tPROTOCOL\tCONTAINER\tSINCE\tCONNECTIONS\tIN\tOUT\tSTATE")
	for _, p := range ports {
		name := p.Name
		if name == "" {
			name = p.Container.Addr().String()
		}
		state := "open"
		switch {
		case p.Error != "":
			state = p.Error
		case p.Added:
			state = "open, added"
		case p.HostNetwork:
			state = "open, host network"
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%s\t%s:%d\t%s\t%d (%d)\t%s\t%s\t%s\n", p.Host.Addr(), p.Host.Port(), p.Proto,
			name, p.Container.Port(), age(now, p.Since), p.Connections, p.Open, bytesText(p.Received), bytesText(p.Sent), state)
	}
	_ = w.Flush()
}

// bytesText is a number of bytes in the largest unit that leaves a digit.
func bytesText(n int64) string {
	units := []string{"B", "KB", "MB", "GB", "TB"}
	value, i := float64(n), 0
	for ; value >= 1000 && i < len(units)-1; i++ {
		value /= 1000
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[i])
}
