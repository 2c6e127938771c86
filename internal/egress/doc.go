// Package egress decides how what the machine sends leaves the host, and sends
// it: directly, to the host itself under the name host.docker.internal, to the
// resolver, or not at all. It is the Handler of every datapath. Bytes are moved
// by package relay; names are package dns's business.
//
// # Theory of operation
//
// decide maps a destination to a verdict and knows nothing else. The verdict is
// carried out by one file for each protocol:
//
//	verdict   TCP                            UDP                       echo
//	direct    dial from the host             relay.UDP                 relay.Echo
//	host      dial 127.0.0.1, then ::1       the same, see aliases     answered here
//	resolver  served by DNSService           asked of DNSService       answered here
//	proxied   served by Proxies
//	gateway   refused                        refused                   answered here
//	refuse    the error that decide chose    the same                  the same
//	drop      as refuse                      nothing                   nothing
//
// Proxies may also take a direct TCP flow over, and refuse other direct flows.
//
// Every error reaches the machine through datapath.Classify, so a connect in a
// container ends as it would have ended on the host.
package egress
