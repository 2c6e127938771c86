package api

import (
	"net/netip"
	"time"
)

// DNSAnswer is what `portolan dns query --json` prints: how a name is answered
// to containers at this moment.
type DNSAnswer struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Rcode   string   `json:"rcode"`   // NOERROR, NXDOMAIN, ...
	Records []string `json:"records"` // as in a zone file
	// Hidden are the records that the filter took away or changed, and
	// HiddenBecause which setting makes it do so, and what it has found.
	Hidden        []string `json:"hidden,omitempty"`
	HiddenBecause []string `json:"hiddenBecause,omitempty"`
	// Source is portolan (its own names), hosts (the host's hosts file), cache,
	// resolver (one of the host's) or nobody.
	Source string          `json:"source"`
	Server *netip.AddrPort `json:"server,omitempty"` // the host's resolver that gave the answer
	File   string          `json:"file,omitempty"`   // of the host, that names the resolver or has the record
	Lines  []int           `json:"lines,omitempty"`  // of File, from 1 on
	Age    time.Duration   `json:"age,omitempty"`    // in the cache
	Left   time.Duration   `json:"left,omitempty"`   // in the cache, until it is forgotten
	// Completed is the name that was asked for in place of a short one: with one of
	// Search.
	Completed string        `json:"completed,omitempty"`
	Took      time.Duration `json:"took"`
	Error     string        `json:"error,omitempty"` // why nobody answers

	Servers []netip.AddrPort `json:"servers"`          // the host's resolvers, in order
	Search  []string         `json:"search,omitempty"` // the host's search domains
}
