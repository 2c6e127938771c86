//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/portolan-net/portolan/internal/testimage"
)

// lookup asks for a name: without a type as programs do (hosts file, search
// list, both families), with a type by one query to the name server.
func lookup(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("lookup")
	server := flags.String("server", "", "IP or IP:PORT (default: the first of /etc/resolv.conf)")
	tcp := flags.Bool("tcp", false, "TCP from the start")
	bufsize := flags.Int("bufsize", 1232, "EDNS0 answer size over UDP; 0: no EDNS0")
	timeout := flags.Duration("timeout", 10*time.Second, "for all of it")
	positional := parse(flags, args, 1, 2)
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	if len(positional) == 1 && *server == "" {
		return lookupHost(ctx, positional[0], r)
	}

	kind := dnsmessage.TypeA
	if len(positional) == 2 {
		var err error
		if kind, err = parseType(positional[1]); err != nil {
			return err
		}
	}
	addr, err := serverAddr(*server)
	if err != nil {
		return err
	}
	r.Remote = addr.String()
	query, err := newQuery(positional[0], kind, *bufsize)
	if err != nil {
		return err
	}
	answer, err := ask(ctx, addr, query, *tcp, r)
	if err != nil {
		return err
	}
	r.Answers, err = describe(answer)
	if err == nil && r.Outcome == "" && len(r.Answers) == 0 {
		r.Outcome = testimage.NoData
	}
	return err
}

// lookupHost is what most programs do: net.Resolver reads /etc/hosts and /etc/resolv.conf.
func lookupHost(ctx context.Context, name string, r *testimage.Result) error {
	addrs, err := (&net.Resolver{PreferGo: true}).LookupNetIP(ctx, "ip", name)
	for _, addr := range addrs {
		r.Answers = append(r.Answers, addr.Unmap().String())
	}
	if dnsErr, ok := errors.AsType[*net.DNSError](err); ok {
		switch {
		case dnsErr.IsNotFound:
			r.Outcome = testimage.NoName
		case dnsErr.IsTimeout:
			r.Outcome = testimage.Timeout
		case dnsErr.IsTemporary:
			r.Outcome = testimage.ServFail
		}
	}
	return err
}

// ask sends query and returns the answer; one that was cut comes again over TCP.
func ask(ctx context.Context, server netip.AddrPort, query []byte, tcp bool, r *testimage.Result) ([]byte, error) {
	network := "udp"
	if tcp {
		network = "tcp"
	}
	for {
		answer, err := exchange(ctx, network, server, query)
		if err != nil {
			return nil, err
		}
		var parser dnsmessage.Parser
		header, err := parser.Start(answer)
		if err != nil {
			return nil, fmt.Errorf("parse DNS answer: %w", err)
		}
		if header.Truncated && network == "udp" {
			r.Truncated, network = true, "tcp"
			continue
		}
		switch header.RCode {
		case dnsmessage.RCodeSuccess:
		case dnsmessage.RCodeNameError:
			r.Outcome = testimage.NoName
		case dnsmessage.RCodeServerFailure:
			r.Outcome = testimage.ServFail
		case dnsmessage.RCodeRefused:
			r.Outcome = testimage.Prohibited
		default:
			r.Outcome, r.Error = testimage.Failed, header.RCode.String()
		}
		r.Bytes = int64(len(answer))
		sum := sha256.Sum256(withoutTTLs(answer)[2:]) // the first two bytes are the query's id
		r.SHA256 = hex.EncodeToString(sum[:])
		return answer, nil
	}
}

// exchange sends one query over network and returns the message that answers it.
func exchange(ctx context.Context, network string, server netip.AddrPort, query []byte) ([]byte, error) {
	d, err := dialer(network, "")
	if err != nil {
		return nil, err
	}
	conn, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if network == "tcp" {
		return exchangeTCP(conn, query)
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, 1<<16)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if n >= 2 && buf[0] == query[0] && buf[1] == query[1] {
			return buf[:n], nil
		}
	}
}

// exchangeTCP puts the length before each message (RFC 1035, 4.2.2).
func exchangeTCP(conn net.Conn, query []byte) ([]byte, error) {
	head := []byte{byte(len(query) >> 8), byte(len(query))}
	if _, err := conn.Write(append(head, query...)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, head); err != nil {
		return nil, err
	}
	answer := make([]byte, int(head[0])<<8|int(head[1]))
	_, err := io.ReadFull(conn, answer)
	return answer, err
}

// serverAddr is the server that the user names, or the first of /etc/resolv.conf.
func serverAddr(server string) (netip.AddrPort, error) {
	if server == "" {
		var err error
		if server, err = firstNameserver("/etc/resolv.conf"); err != nil {
			return netip.AddrPort{}, err
		}
	}
	if addr, err := netip.ParseAddr(server); err == nil {
		return netip.AddrPortFrom(addr, 53), nil
	}
	addr, err := netip.ParseAddrPort(server)
	if err != nil {
		return addr, fmt.Errorf("parse name server %q: want IP or IP:PORT", server)
	}
	return addr, nil
}

func firstNameserver(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) >= 2 && fields[0] == "nameserver" {
			return fields[1], nil
		}
	}
	return "", errors.Join(fmt.Errorf("%s: names no server", path), lines.Err())
}

// parseType reads a record type: its name, TYPE65 or 65.
func parseType(text string) (dnsmessage.Type, error) {
	text = strings.ToUpper(text)
	for kind, name := range typeNames {
		if name == text {
			return kind, nil
		}
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "TYPE"), 10, 16)
	if err != nil {
		return 0, fmt.Errorf("record type %q: unknown; a number will do", text)
	}
	return dnsmessage.Type(n), nil
}

var typeNames = map[dnsmessage.Type]string{
	dnsmessage.TypeA: "A", dnsmessage.TypeAAAA: "AAAA", dnsmessage.TypeCNAME: "CNAME", dnsmessage.TypeMX: "MX",
	dnsmessage.TypeNS: "NS", dnsmessage.TypePTR: "PTR", dnsmessage.TypeSOA: "SOA", dnsmessage.TypeSRV: "SRV",
	dnsmessage.TypeTXT: "TXT", 65: "HTTPS", 257: "CAA",
}
