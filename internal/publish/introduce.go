package publish

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/portolan-net/portolan/internal/datapath"
)

// proxyLabel is a container's list of TCP ports ("80", "80,443") that get a PROXY
// protocol header, version 2, before each connection's own bytes. It tells the
// client's port and the host's address too, which the source address does not.
const proxyLabel = "portolan.publish.proxy-protocol"

// proxyLimit bounds the question to the engine and the write of a header.
const proxyLimit = 5 * time.Second

// proxyChoice remembers the answer of the labels for one container.
type proxyChoice struct{ send bool }

// mayIntroduce reports whether introduce has something to do or to ask.
func (t *Table) mayIntroduce(e *entry) bool {
	known := e.proxy.Load()
	return t.cfg.Labels != nil && (known == nil || known.send)
}

// introduce tells the container who connects, if it wants to be told.
func (t *Table) introduce(ctx context.Context, e *entry, client, container datapath.Conn) error {
	if !t.wantsProxy(ctx, e) {
		return nil
	}
	header := proxyproto.HeaderProxyFromAddrs(2, unmapped(client.RemoteAddr()), unmapped(client.LocalAddr()))
	if err := container.SetWriteDeadline(time.Now().Add(proxyLimit)); err != nil {
		return err
	}
	if _, err := header.WriteTo(container); err != nil {
		return fmt.Errorf("write PROXY header: %w", err)
	}
	return container.SetWriteDeadline(time.Time{})
}

// wantsProxy asks for the labels at the first connection: when the engine
// publishes, its container has no address yet.
func (t *Table) wantsProxy(ctx context.Context, e *entry) bool {
	if t.cfg.Labels == nil {
		return false
	}
	if known := e.proxy.Load(); known != nil {
		return known.send
	}
	ctx, cancel := context.WithTimeout(ctx, proxyLimit)
	defer cancel()
	at := *e.container.Load()
	labels, err := t.cfg.Labels(ctx, at.Addr())
	if err != nil {
		// The engine is away. Better a container that gets no header than one that
		// gets no connection.
		t.cfg.Log.Warn("labels of a container are not known", "binding", e.binding, "error", err)
		return false
	}
	send := listed(labels[proxyLabel], at.Port())
	if labels != nil && *e.container.Load() == at {
		e.proxy.Store(&proxyChoice{send})
	}
	return send
}

// listed reports whether a list such as "80, 443" names port.
func listed(list string, port uint16) bool {
	words := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
	return slices.Contains(words, strconv.Itoa(int(port)))
}

// unmapped is a TCP address whose IPv4 is not dressed as IPv6.
func unmapped(a net.Addr) net.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return a
	}
	at := tcp.AddrPort()
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
}
