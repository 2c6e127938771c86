package api

import (
	"net/netip"

	"github.com/portolan-net/portolan/internal/portolan"
)

// Connection is how the host reaches the machine's networks by their own
// addresses, after `portolan connect`.
type Connection struct {
	Interface string         `json:"interface"`
	Address   portolan.Pair  `json:"address"`           // the host's own on it, which containers see
	Networks  []netip.Prefix `json:"networks"`          // to which the host has routes there
	Refused   []string       `json:"refused,omitempty"` // "NETWORK: WHY" of those to which it has not
}

// ConnectOffer is the answer to GET /v1/connect: what a connector needs to know.
type ConnectOffer struct {
	Link portolan.Link `json:"link"`
}

// Names is the answer to GET /v1/names: what the host may call containers,
// without the domain portolan.internal, and their addresses.
type Names map[string][]netip.Addr
