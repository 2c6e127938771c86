package proxy

// Order returns routes in the order in which they are to be tried now: proxies
// that could not be reached a moment ago come last. It is for callers that walk
// the direct way themselves and each other route with Walk.
func (d *Dialer) Order(routes []Route) []Route { return d.order(routes) }
