package dns

import (
	"maps"
	"net/netip"
)

// Names returns what Set was given last, in lower case.
func (z *Zone) Names() map[string][]netip.Addr {
	if names := z.names.Load(); names != nil {
		return maps.Clone(*names)
	}
	return nil
}
