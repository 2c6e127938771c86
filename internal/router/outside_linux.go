package router

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// Outside is the host's connection to the router, as its maker holds it.
type Outside struct {
	conn *net.UnixConn
	ns   *os.File // the router's network namespace
}

// ErrEnded is what Outside.Wait returns when somebody asked for the end.
var ErrEnded = errors.New("the host's connection was ended")

// Connect asks the helper behind conn, its hand-over socket, for the host's
// connection, of which there is one at a time. It owns conn.
func Connect(conn *net.UnixConn) (*Outside, error) {
	fds, err := ask(conn, wordConnect)
	if err == nil && len(fds) != 1 {
		closeAll(fds)
		err = fmt.Errorf("got %d descriptors, want 1; is the helper of another version?", len(fds))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ask router helper for a connection: %w", err), conn.Close())
	}
	return &Outside{conn: conn, ns: os.NewFile(uintptr(fds[0]), "router")}, nil
}

// AddLink makes the veth between the network namespace of the calling thread,
// where its end has that name, and the router, which lets it in. The end is
// down and without addresses; packets for the machine go to the hardware address
// that GatewayMAC returns. It needs CAP_NET_ADMIN in both namespaces. The router
// forgets its namespace then: nothing of it is kept when the machine ends.
func (o *Outside) AddLink(name string) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.TxQLen = name, linkMTU, hostMAC(), 1000
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: hostName, PeerMTU: linkMTU,
		PeerHardwareAddr: h0MAC(), PeerNamespace: netlink.NsFd(o.ns.Fd()),
	}
	err := netlink.LinkAdd(veth)
	_ = o.ns.Close()
	if err != nil {
		return nil, fmt.Errorf("add veth %s: %w", name, err)
	}
	if _, err := ask(o.conn, wordAdmit); err != nil {
		return nil, fmt.Errorf("ask router helper to admit %s: %w", name, err)
	}
	return netlink.LinkByName(name)
}

// GatewayMAC is where the host's packets for the machine go.
func GatewayMAC() net.HardwareAddr { return h0MAC() }

// Wait returns when the connection has ended: ErrEnded when that was asked for,
// another error when the helper has died.
func (o *Outside) Wait() error {
	_ = o.conn.SetDeadline(time.Time{}) // fails on a closed socket only
	line, err := bufio.NewReader(o.conn).ReadString('\n')
	if strings.TrimSpace(line) == wordEnded {
		return ErrEnded
	}
	return fmt.Errorf("wait for router helper: %w", err)
}

// Close disconnects the host: the helper removes both ends of the veth.
func (o *Outside) Close() error {
	_ = o.ns.Close() // AddLink may have done it
	return o.conn.Close()
}

// ask sends one request over a connection of its own and returns the answer's
// descriptors.
func ask(conn *net.UnixConn, word string) ([]int, error) {
	if err := conn.SetDeadline(time.Now().Add(helperPatience)); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintln(conn, word); err != nil {
		return nil, err
	}
	text, fds, err := readAnswer(conn)
	if err != nil {
		closeAll(fds)
		return nil, err
	}
	return checkAnswer(text, fds)
}

// Disconnect ends the host's connection, if there is one, and returns when its
// interface is gone.
func Disconnect(conn *net.UnixConn) error {
	defer conn.Close()
	if _, err := ask(conn, wordDisconnect); err != nil {
		return fmt.Errorf("ask router helper to disconnect the host: %w", err)
	}
	return nil
}

// Disconnect ends the host's connection, if there is one.
func (d *Datapath) Disconnect() error {
	_, err := d.helper.request(wordDisconnect)
	return err
}

// networkFD opens the network namespace of this process.
func networkFD() ([]int, error) {
	fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return []int{fd}, nil
}

// proxyOutside makes e0 answer for the host's address on the link, for those
// that ask there instead of knowing: containers on macvlan.
func proxyOutside(h *netlink.Handle, link portolan.Link) error {
	dev, err := h.LinkByName(linkName)
	if err != nil {
		return fmt.Errorf("find %s: %w", linkName, err)
	}
	for _, ip := range []net.IP{link.Outside().V4.AsSlice(), link.Outside().V6.AsSlice()} {
		neigh := &netlink.Neigh{LinkIndex: dev.Attrs().Index, Flags: netlink.NTF_PROXY, IP: ip}
		if err := h.NeighSet(neigh); err != nil {
			return fmt.Errorf("answer for %s on %s: %w", ip, linkName, err)
		}
	}
	return nil
}
