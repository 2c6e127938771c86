package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/portolan-net/portolan/bench/report"
	"github.com/portolan-net/portolan/internal/stage"
)

// measureUp times `portolan up` where a machine was before, and the first of all.
func measureUp(b *testing.B, r *recorder, s *stage.Stage, ups int) {
	b.Helper()
	for i := range ups + 1 {
		c := column{id: "up/again", title: "later", unit: "s", less: true}
		if i == 0 {
			c = column{id: "up/first", title: "the first, with empty state", unit: "s", less: true}
		}
		began := time.Now()
		s.Portolan(b, "up")
		r.add("Start of a machine", c, report.Portolan, time.Since(began).Seconds())
		s.Portolan(b, "down")
	}
}

// measureRun times containers that do nothing, without and with a port, and how
// long a new server's first byte takes.
func measureRun(b *testing.B, r *recorder, engines []*dockerEngine, runs int) {
	b.Helper()
	const group = "Start of a container"
	limit := report.Limit{Of: report.Plain, Factor: 1}
	columns := []column{
		{"start/run", "docker run --rm", "ms", true, limit},
		{"start/run-p", "docker run --rm -p", "ms", true, limit},
		{"start/first-byte", "docker run -d -p to the first byte", "ms", true, limit},
		{"start/first-byte-host", "docker run -d --network host to the first byte", "ms", true, report.Limit{}},
	}
	for round := range runs + 1 {
		for _, e := range engines {
			port := newPort()
			published := port + ":" + probePort
			steps := []func() error{
				func() error { _, err := e.docker("run", "--rm", imageName); return err },
				func() error { _, err := e.docker("run", "--rm", "-p", published, imageName); return err },
				func() error { return e.firstByte(b, port, probePort, "-p", published) },
				func() error { return e.firstByte(b, port, port, "--network", "host") },
			}
			for i, step := range steps {
				began := time.Now()
				if err := step(); err != nil {
					b.Fatalf("%s: %s: %v", e.name, columns[i].title, err)
				}
				if round > 0 { // the first one fills caches
					r.add(group, columns[i], e.name, float64(time.Since(began).Microseconds())/1000)
				}
				_, _ = e.docker("rm", "-f", "first") // if the step made it
			}
		}
	}
}

// firstByte starts a server that listens on inner and returns when it has answered
// at port of the host.
func (e *dockerEngine) firstByte(b *testing.B, port, inner string, flags ...string) error {
	b.Helper()
	w := &way{client: e.host, addr: loopbackHost + ":" + port}
	answered := make(chan error, 1)
	go func() { answered <- w.probe(b.Context(), nil, "await") }()
	_, err := e.docker(append(append([]string{"run", "-d", "--name", "first"}, flags...), imageName, "/bin/probe", "serve", ":"+inner)...)
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	return <-answered
}
