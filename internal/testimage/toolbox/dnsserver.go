//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/portolan-net/portolan/internal/testimage"
)

// serveDNS answers every question for an IPv4 address with the same one, over
// UDP and TCP, until SIGTERM.
func serveDNS(ctx context.Context, args []string, _ *testimage.Result) error {
	flags := newFlags("dns")
	addr := flags.String("addr", ":53", "listen address")
	answer, err := netip.ParseAddr(parse(flags, args, 1, 1)[0])
	if err != nil {
		return err
	}
	udp, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", *addr)
	if err != nil {
		return err
	}
	tcp, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *addr)
	if err != nil {
		return errors.Join(err, udp.Close())
	}
	end := context.AfterFunc(ctx, func() { _, _ = udp.Close(), tcp.Close() })
	defer end()
	announce("dns", tcp.Addr())
	go func() { // ends with its socket
		query := make([]byte, 512)
		for {
			n, client, err := udp.ReadFrom(query)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if reply := answerDNS(query[:n], answer); reply != nil {
				_, _ = udp.WriteTo(reply, client)
			}
		}
	}()
	for {
		conn, err := tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		answerDNSOnce(conn, answer)
	}
}

// answerDNSOnce answers the first question of a TCP connection (RFC 1035, 4.2.2).
func answerDNSOnce(conn net.Conn, addr netip.Addr) {
	defer conn.Close()
	var length uint16
	if binary.Read(conn, binary.BigEndian, &length) != nil {
		return
	}
	query := make([]byte, length)
	if _, err := io.ReadFull(conn, query); err != nil {
		return
	}
	reply := answerDNS(query, addr)
	_, _ = conn.Write(binary.BigEndian.AppendUint16(nil, uint16(len(reply))))
	_, _ = conn.Write(reply)
}

// answerDNS returns nil for what is no question.
func answerDNS(query []byte, addr netip.Addr) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 || !addr.Is4() {
		return nil
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: addr.As4()},
		}}
	}
	reply, err := m.Pack()
	if err != nil {
		return nil
	}
	return reply
}
