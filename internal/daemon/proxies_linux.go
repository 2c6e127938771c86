package daemon

import (
	"context"
	"net/netip"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/dns"
	"github.com/portolan-net/portolan/internal/egress"
	"github.com/portolan-net/portolan/internal/proxy/entry"
	"github.com/portolan-net/portolan/internal/proxy/server"
	"github.com/portolan-net/portolan/internal/system"
)

// proxies is the forward proxy with what it stands on, which is made after it.
type proxies struct {
	*server.Server
	out  *egress.Egress
	link *agentSide
}

// newProxies makes what serves http.docker.internal:3128 and transparent ports;
// join must come before the first connection.
func (d *daemon) newProxies(policies server.Policies, resolver *dns.Server) *proxies {
	p := &proxies{}
	p.Server = server.New(server.Config{
		Link: d.link(), Policies: policies, Lookup: resolver.Lookup,
		Dial: func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (datapath.Conn, error) {
			return p.out.DialTCP(ctx, src, dst)
		},
		Networks:         func() []netip.Prefix { return p.link.networks() },
		TransparentPorts: func() entry.Ports { return d.values.Load().ContainersProxy.Transparent },
		Ports:            system.NewOutgoing(func() system.PortRange { return d.engineConfig().RandomPorts }),
		Log:              d.Log.With("part", "proxy"),
	})
	return p
}

func (p *proxies) join(out *egress.Egress, link *agentSide) { p.out, p.link = out, link }
