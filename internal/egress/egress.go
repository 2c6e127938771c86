package egress

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"syscall"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/mmsg"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/relay"
	"github.com/portolan-net/portolan/internal/scarce"
	"github.com/portolan-net/portolan/internal/system"
)

// DNSService answers the machine's DNS queries.
type DNSService interface {
	// HandleUDP takes one query of client. It must not block, and must copy
	// query if it keeps it. reply may be called from any goroutine, or never.
	HandleUDP(query []byte, client netip.AddrPort, reply func(answer []byte))
	// ServeTCP answers queries on conn until either side has had enough, and
	// closes it.
	ServeTCP(ctx context.Context, conn datapath.Conn)
}

// Dialer opens the far side of a direct TCP flow. An error is classified by
// package datapath, so it must wrap what the kernel said.
type Dialer interface {
	DialTCP(ctx context.Context, dst netip.AddrPort) (datapath.Conn, error)
}

// Config is what an Egress needs. Link, DNS and Machine are required.
type Config struct {
	Link portolan.Link
	// Former are links that the machine had before, whose gateway, resolver and host
	// running containers still know by their addresses: these lead where the link's
	// own do. Asked for each connection and datagram. Nil is none.
	Former func() []portolan.Link
	DNS    DNSService
	// Machine takes the answers of datagrams and echo requests.
	Machine datapath.Machine
	// Dialer opens TCP connections, those to the host's loopback included; nil
	// stands for ordinary sockets of this process.
	Dialer Dialer
	// Ports chooses the host's ports of what leaves; nil leaves it to the kernel.
	Ports *system.Outgoing
	// Offload says whether datagrams are joined; nil never does.
	Offload *mmsg.Offload
	// Networks are those of containers, each of which gets a part only of what is
	// scarce; nil puts all into one.
	Networks *scarce.Networks
	// Mode tells which IP versions may leave; asked for each connection and
	// datagram. Flows that stand are not ended by a change. Nil allows both.
	Mode func() portolan.Mode
	// AllowHost may refuse a flow to host.docker.internal (by setting, or because
	// the port is the daemon's own) with an error to classify. Nil allows all. It
	// is asked for each connection and datagram and must not block.
	AllowHost func(flow portolan.Flow) error
	// Proxies takes what goes by way of a proxy; nil is none.
	Proxies Proxies
	Log     *slog.Logger
}

// Egress is a datapath.Handler.
type Egress struct {
	cfg     Config
	udp     *relay.UDP
	echo    *relay.Echo
	dials   *scarce.Limit
	short   scarce.Seldom
	aliases *aliases
}

var _ datapath.Handler = (*Egress)(nil)

// New returns an Egress that is ready. Close ends it.
func New(cfg Config) *Egress {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dialer == nil {
		cfg.Dialer = newSystemDialer(cfg.Ports)
	}
	if cfg.Mode == nil {
		cfg.Mode = func() portolan.Mode { return portolan.DualStack }
	}
	if cfg.Former == nil {
		cfg.Former = func() []portolan.Link { return nil }
	}
	if cfg.AllowHost == nil {
		cfg.AllowHost = func(portolan.Flow) error { return nil }
	}
	e := &Egress{cfg: cfg, dials: scarce.NewLimit(dialBounds, cfg.Networks), aliases: newAliases()}
	e.udp = relay.NewUDP(relay.UDPConfig{Ports: cfg.Ports, Offload: cfg.Offload, Network: cfg.Networks.Of, Reply: e.replyUDP, Refused: e.refusedUDP, Log: cfg.Log})
	e.echo = relay.NewEcho(relay.EchoConfig{Reply: e.replyEcho, Refused: e.refusedEcho, Log: cfg.Log})
	return e
}

// Close ends all UDP associations and echo exchanges and waits for them. TCP
// flows end with the context of their datapath.
func (e *Egress) Close() error {
	return errors.Join(e.udp.Close(), e.echo.Close())
}

// decide applies the table and the settings. A family that the mode has not is
// refused as on a host that has no route for it.
func (e *Egress) decide(flow portolan.Flow) (verdict, error) {
	flow.Dst = netip.AddrPortFrom(e.cfg.Link.Successor(flow.Dst.Addr(), e.cfg.Former()), flow.Dst.Port())
	v, err := decide(e.cfg.Link, flow)
	if (v == direct || v == host) && !e.cfg.Mode().Carries(flow.Dst.Addr()) {
		return refuse, syscall.ENETUNREACH
	}
	if v == host && flow.Proto != portolan.ICMP {
		if err := e.cfg.AllowHost(flow); err != nil {
			return refuse, err
		}
	}
	if v == direct && flow.Proto != portolan.TCP && e.cfg.Proxies != nil {
		if err := e.cfg.Proxies.Allow(flow); err != nil {
			return refuse, err
		}
	}
	return v, err
}

// sent notes an answer to the machine that could not be delivered. The machine
// treats it as a lost packet; nobody has to act.
func (e *Egress) sent(flow portolan.Flow, err error) {
	if err != nil {
		e.cfg.Log.Debug("answer lost", "flow", flow, "error", err)
	}
}

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)
