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
	// Hidden are the records that dnsInhibition took away or changed.
	Hidden []string `json:"hidden,omitempty"`
	// Source is portolan (its own names), hosts (the host's hosts file), cache,
	// resolver (one of the host's) or nobody.
	Source string          `json:"source"`
	Server *netip.AddrPort `json:"server,omitempty"` // the host's resolver that gave the answer
	Age    time.Duration   `json:"age,omitempty"`    // in the cache
	Took   time.Duration   `json:"took"`
	Error  string          `json:"error,omitempty"` // why nobody answers

	Servers []netip.AddrPort `json:"servers"`          // the host's resolvers, in order
	Search  []string         `json:"search,omitempty"` // the host's search domains
}
