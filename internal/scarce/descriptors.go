package scarce

// keptDescriptors, or half of them where there are few, are not for connections,
// but for listeners, the engine's clients, datagrams.
const keptDescriptors = 512

// mostDescriptors stands for no limit, and fits every int.
const mostDescriptors = 1 << 30

// NewConnections returns the Limit of relayed TCP connections, from containers and
// to published ports: as many as the process may have descriptors for.
func NewConnections(networks *Networks) *Limit {
	return NewVaryingLimit(func() Bounds { return connectionBounds(descriptors()) }, networks)
}

// connectionBounds counts two descriptors for each. A network gets two thirds, and
// so do all clients on the host's side together, so that one can't leave another
// without. One address, a client of published ports say, gets half.
func connectionBounds(descriptors uint64) Bounds {
	all := int(descriptors-min(keptDescriptors, descriptors/2)) / 2
	return Bounds{All: max(1, all), Network: max(1, all/3*2), Source: max(1, all/2)}
}

// NewSessions returns the Limit of UDP clients of published ports.
func NewSessions() *Limit {
	return NewVaryingLimit(func() Bounds { return sessionBounds(descriptors()) }, nil)
}

// sessionBounds counts one descriptor for each, and leaves a quarter to others. One
// client, behind which there may be a network, gets five eighths.
func sessionBounds(descriptors uint64) Bounds {
	return Bounds{All: max(1, int(descriptors/4*3)), Source: max(1, int(descriptors/8*5))}
}
