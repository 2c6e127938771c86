package bench

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/portolan-net/portolan/bench/report"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// measureProxied compares a transparent port with a container that speaks CONNECT
// itself, to the same proxy on the host and the same server behind it: both have
// the same hops, so what differs is what Portolan adds to them after the first
// bytes. The way without a proxy has a hop less, and is there to be seen.
func measureProxied(b *testing.B, r *recorder, s *stage.Stage, e *dockerEngine, h host, d time.Duration) {
	b.Helper()
	const direct, group, port = "without a proxy", "Through a company's proxy", "3128"
	server, proxy := lab.HostV4+":"+probePort, lab.HostV4+":"+port
	inside, _, _ := e.container(b, "proxied", "bridge")
	running := serve(b, h.command, lab.HostV4)
	start(b, h.command(b.Context(), probe, "proxy", proxy))
	choose := func(ports string) {
		text, err := json.Marshal(map[string]any{"mode": "manual", "http": "http://" + proxy, "https": "http://" + proxy, "transparentPorts": ports})
		check(b, err)
		s.Portolan(b, "settings", "set", "containersProxy", string(text))
	}
	defer s.Portolan(b, "settings", "unset", "containersProxy")
	ways := []struct{ name, addr, ports string }{
		{report.ByHand, proxy + "/" + server, ""}, {report.Portolan, server, probePort}, {direct, server, ""},
	}
	for range chosen().rounds {
		for _, dir := range []string{"out", "back"} {
			speed := column{"proxied/" + dir, dir, "Gbit/s", false, report.Limit{Of: report.ByHand, Factor: 1}}
			for _, one := range ways {
				choose(one.ports)
				var got struct{ Bytes, Seconds float64 }
				w := &way{client: inside, addr: one.addr, server: running}
				check(b, w.probe(b.Context(), &got, "bulk", d.String(), "1", dir))
				r.add(group, speed, one.name, got.Bytes*8/got.Seconds/1e9)
			}
		}
	}
}
