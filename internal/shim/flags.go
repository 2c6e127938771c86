package shim

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"

	"github.com/portolan-net/portolan/internal/portolan"
)

// parse reads docker-proxy's flags. Whether the engine passed a socket shows in
// whether one came with the message.
func parse(args []string) (b portolan.Binding, err error) {
	var proto string
	var host, container netip.Addr
	var hostPort, containerPort uint
	flags := flag.NewFlagSet("docker-proxy", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&proto, "proto", "tcp", "protocol")
	flags.TextVar(&host, "host-ip", netip.IPv4Unspecified(), "address on the host")
	flags.UintVar(&hostPort, "host-port", 0, "port on the host")
	flags.TextVar(&container, "container-ip", netip.IPv4Unspecified(), "address of the container")
	flags.UintVar(&containerPort, "container-port", 0, "port of the container")
	flags.Bool("use-listen-fd", false, "descriptor 4 is the bound socket")
	if err := flags.Parse(args); err != nil {
		return b, fmt.Errorf("read docker-proxy flags: %w", err)
	}
	if proto != portolan.TCP.String() && proto != portolan.UDP.String() {
		return b, fmt.Errorf("publish %s/%s: Portolan carries TCP and UDP only", netip.AddrPortFrom(host, uint16(hostPort)), proto)
	}
	if hostPort == 0 || hostPort > 65535 || containerPort == 0 || containerPort > 65535 {
		return b, fmt.Errorf("read docker-proxy flags: ports %d and %d: want 1 to 65535", hostPort, containerPort)
	}
	if !host.IsValid() || !container.IsValid() {
		return b, errors.New("read docker-proxy flags: want a host address and a container address")
	}
	if err := b.Proto.UnmarshalText([]byte(proto)); err != nil {
		return b, err
	}
	b.Host = netip.AddrPortFrom(host.Unmap(), uint16(hostPort))
	b.Container = netip.AddrPortFrom(container.Unmap(), uint16(containerPort))
	return b, nil
}
