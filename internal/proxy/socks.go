package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// maxSOCKSField is what one byte of length allows a name, a user, a password.
const maxSOCKSField = 255

// The numbers of RFC 1928 and RFC 1929.
const (
	socksVersion   = 5
	socksNoLogin   = 0
	socksPassword  = 2
	socksNothing   = 0xff // none of the methods is acceptable
	socksConnect   = 1
	socksIPv4      = 1
	socksName      = 3
	socksIPv6      = 4
	passwordFormat = 1
)

// refusedLogin is RefusedError.Code for credentials that a SOCKS5 proxy does
// not take.
const refusedLogin = 255

// socksReplies says what a reply means (RFC 1928, section 6).
var socksReplies = map[byte]string{
	1: "general failure", 2: "not allowed by its rules", 3: "network unreachable", 4: "host unreachable",
	5: "connection refused", 6: "time to live expired", 7: "command not supported", 8: "kind of address not supported",
}

// connectSOCKS asks for a connection. It reads no byte more than the proxy's
// answers have.
func connectSOCKS(conn net.Conn, r Route, to Destination) error {
	address, err := socksAddress(to)
	if err != nil {
		return err
	}
	if err := socksGreet(conn, r); err != nil {
		return err
	}
	if _, err := conn.Write(append([]byte{socksVersion, socksConnect, 0}, address...)); err != nil {
		return err
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(conn, head); err != nil {
		return fmt.Errorf("read SOCKS reply: %w", err)
	}
	if head[0] != socksVersion {
		return fmt.Errorf("it does not speak SOCKS5: version %d in its reply", head[0])
	}
	if head[1] != 0 {
		text, known := socksReplies[head[1]]
		if !known {
			text = fmt.Sprintf("reply %d", head[1])
		}
		return &RefusedError{Route: r, Code: int(head[1]), Status: text}
	}
	return skipSOCKSAddress(conn, head[3])
}

// socksGreet agrees on a method, and logs in.
func socksGreet(conn net.Conn, r Route) error {
	greeting := []byte{socksVersion, 1, socksNoLogin}
	if r.login != nil {
		greeting = []byte{socksVersion, 2, socksNoLogin, socksPassword}
	}
	if _, err := conn.Write(greeting); err != nil {
		return err
	}
	method := make([]byte, 2)
	if _, err := io.ReadFull(conn, method); err != nil {
		return fmt.Errorf("read SOCKS method: %w", err)
	}
	switch {
	case method[0] != socksVersion:
		return fmt.Errorf("it does not speak SOCKS5: version %d in its first answer", method[0])
	case method[1] == socksNoLogin:
		return nil
	case method[1] == socksNothing:
		return &RefusedError{Route: r, Code: refusedLogin, Status: "it wants another way to log in"}
	case method[1] != socksPassword || r.login == nil:
		return fmt.Errorf("it chose SOCKS method %d, which was not offered", method[1])
	}
	login := append([]byte{passwordFormat, byte(len(r.login.user))}, r.login.user...)
	login = append(append(login, byte(len(r.login.password))), r.login.password...)
	if _, err := conn.Write(login); err != nil {
		return err
	}
	verdict := make([]byte, 2)
	if _, err := io.ReadFull(conn, verdict); err != nil {
		return fmt.Errorf("read SOCKS login's answer: %w", err)
	}
	if verdict[1] != 0 {
		return &RefusedError{Route: r, Code: refusedLogin, Status: "user or password is wrong"}
	}
	return nil
}

// socksAddress writes kind, address and port.
func socksAddress(to Destination) ([]byte, error) {
	var b []byte
	if addr, err := netip.ParseAddr(to.Host); err == nil {
		addr = addr.Unmap().WithZone("")
		kind := byte(socksIPv6)
		if addr.Is4() {
			kind = socksIPv4
		}
		b = append([]byte{kind}, addr.AsSlice()...)
	} else {
		if to.Host == "" || len(to.Host) > maxSOCKSField {
			return nil, fmt.Errorf("name of %d bytes: want 1 to %d", len(to.Host), maxSOCKSField)
		}
		b = append([]byte{socksName, byte(len(to.Host))}, to.Host...)
	}
	return binary.BigEndian.AppendUint16(b, to.Port), nil
}

// skipSOCKSAddress reads the proxy's own address and port, which say nothing.
func skipSOCKSAddress(conn net.Conn, kind byte) error {
	length := map[byte]int{socksIPv4: 4, socksIPv6: 16}[kind]
	if kind == socksName {
		one := make([]byte, 1)
		if _, err := io.ReadFull(conn, one); err != nil {
			return fmt.Errorf("read SOCKS reply: %w", err)
		}
		length = int(one[0])
	} else if length == 0 {
		return fmt.Errorf("it does not speak SOCKS5: address of kind %d in its reply", kind)
	}
	if _, err := io.ReadFull(conn, make([]byte, length+2)); err != nil {
		return fmt.Errorf("read SOCKS reply: %w", err)
	}
	return nil
}

// resolve looks a name up as the host does, and prefers IPv4, which more proxies
// reach.
func resolve(ctx context.Context, host string) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, addr := range addrs {
		if addr.Unmap().Is4() {
			return addr.Unmap(), nil
		}
	}
	if len(addrs) == 0 {
		return netip.Addr{}, errors.New("look up " + host + ": no address")
	}
	return addrs[0], nil
}
