//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// newQuery is a recursive query for one name, with EDNS0 unless bufsize is 0.
func newQuery(name string, kind dnsmessage.Type, bufsize int) ([]byte, error) {
	if !strings.HasSuffix(name, ".") {
		name += "."
	}
	qname, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, fmt.Errorf("name %q: %w", name, err)
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true})
	err = errors.Join(b.StartQuestions(),
		b.Question(dnsmessage.Question{Name: qname, Type: kind, Class: dnsmessage.ClassINET}))
	if bufsize > 0 {
		var opt dnsmessage.ResourceHeader
		err = errors.Join(err, opt.SetEDNS0(bufsize, dnsmessage.RCodeSuccess, false),
			b.StartAdditionals(), b.OPTResource(opt, dnsmessage.OPTResource{}))
	}
	if err != nil {
		return nil, fmt.Errorf("build DNS query: %w", err)
	}
	return b.Finish()
}

// describe writes the answer section in words, "CNAME www.example." and the like.
func describe(message []byte) ([]string, error) {
	var m dnsmessage.Message
	if err := m.Unpack(message); err != nil {
		return nil, fmt.Errorf("parse DNS answer: %w", err)
	}
	var lines []string
	for _, record := range m.Answers {
		lines = append(lines, typeName(record.Header.Type)+" "+data(record.Body))
	}
	return lines, nil
}

func typeName(kind dnsmessage.Type) string {
	if name, ok := typeNames[kind]; ok {
		return name
	}
	return fmt.Sprintf("TYPE%d", kind)
}

// data is a record's content as zone files write it, or in hexadecimal.
func data(body dnsmessage.ResourceBody) string {
	switch b := body.(type) {
	case *dnsmessage.AResource:
		return netip.AddrFrom4(b.A).String()
	case *dnsmessage.AAAAResource:
		return netip.AddrFrom16(b.AAAA).String()
	case *dnsmessage.CNAMEResource:
		return b.CNAME.String()
	case *dnsmessage.NSResource:
		return b.NS.String()
	case *dnsmessage.PTRResource:
		return b.PTR.String()
	case *dnsmessage.MXResource:
		return fmt.Sprintf("%d %s", b.Pref, b.MX)
	case *dnsmessage.SRVResource:
		return fmt.Sprintf("%d %d %d %s", b.Priority, b.Weight, b.Port, b.Target)
	case *dnsmessage.SOAResource:
		return fmt.Sprintf("%s %s %d", b.NS, b.MBox, b.Serial)
	case *dnsmessage.TXTResource:
		return fmt.Sprintf("%q", b.TXT)
	case *dnsmessage.SVCBResource:
		return service(*b)
	case *dnsmessage.HTTPSResource:
		return service(b.SVCBResource)
	case *dnsmessage.UnknownResource:
		return fmt.Sprintf("%x", b.Data)
	}
	return fmt.Sprint(body)
}

// service is an SVCB or HTTPS record (RFC 9460), parameters by number.
func service(b dnsmessage.SVCBResource) string {
	text := fmt.Appendf(nil, "%d %s", b.Priority, b.Target)
	for _, param := range b.Params {
		text = fmt.Appendf(text, " key%d=%x", param.Key, param.Value)
	}
	return string(text)
}

// withoutTTLs is the answer with all TTLs but OPT's 0: in a cache they run down.
// What can't be read stays as it is.
func withoutTTLs(answer []byte) []byte {
	out := bytes.Clone(answer)
	number := func(at int) int { return int(out[at])<<8 | int(out[at+1]) }
	at := 12
	name := func() { // moves at behind a name
		for at < len(out) && out[at] != 0 && out[at] < 0xc0 {
			at += 1 + int(out[at])
		}
		if at < len(out) && out[at] >= 0xc0 {
			at++
		}
		at++
	}
	for range number(4) {
		name()
		at += 4
	}
	for range number(6) + number(8) + number(10) {
		name()
		if at+10 > len(out) {
			return answer
		}
		if number(at) != int(dnsmessage.TypeOPT) {
			clear(out[at+4 : at+8])
		}
		at += 10 + number(at+8)
	}
	return out
}
