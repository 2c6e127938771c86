package proxy

// What internal/proxy/server needs, which walks the direct way itself.

// Order returns routes in the order in which they are to be tried now: proxies
// that could not be reached a moment ago come last.
func (d *Dialer) Order(routes []Route) []Route { return d.order(routes) }

// Excludes reports whether an exclusion leads to the destination.
func (p *Policy) Excludes(to Destination) bool {
	if p == nil {
		return false
	}
	for _, e := range p.exclude {
		if e.Match(to.Host, to.Port) {
			return true
		}
	}
	return false
}
