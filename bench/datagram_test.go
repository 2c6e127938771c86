package bench

import (
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// datagramLoad is one kind of UDP traffic: datagrams of size bytes, as many as
// the sender can, or rate (iperf3's -b).
type datagramLoad struct {
	name string
	size int
	rate string
}

func datagramLoads() []datagramLoad {
	return []datagramLoad{
		{"64 bytes", 64, "0"},
		{"1,400 bytes", 1400, "0"},
		{"1,400 bytes at 1 Gbit/s", 1400, "1G"},
	}
}

// datagrams is one run of iperf3 -u.
type datagrams struct {
	perSecond float64 // as the receiver got them
	lost      float64 // percent
	carrier   float64 // microseconds of the daemon's processor time for each that was sent
}

// BenchmarkDatagrams sends UDP from a container to the host and to the LAN, and
// back, and says what the daemon pays for it.
func BenchmarkDatagrams(b *testing.B) {
	effort, out := chosen(), io.Writer(os.Stdout)
	s := stage.New(b)
	s.Portolan(b, "up")
	probe := buildProbe(b)
	s.Docker(b, "load", "-q", "-i", writeImage(b, probe))
	serve(b, s.Lab.Host.Command, "127.0.0.1", probe)
	serve(b, s.Lab.Neighbour.Command, lab.NeighbourV4, probe)
	s.Docker(b, "run", "-d", "--name", "client", "--tmpfs", "/tmp", imageName, "/bin/probe", "serve", ":1")
	b.Cleanup(func() { s.Docker(b, "rm", "-f", "client") })
	status := s.Status(b)
	for _, load := range datagramLoads() {
		received := newTable("UDP, "+load.name+", received", "per second")
		lost := newTable("The same, lost", "percent")
		cost := newTable("The same, the daemon's processor time", "microseconds for each sent")
		for range effort.rounds {
			for _, way := range []struct {
				name, host string
				back       bool
			}{
				{"container to host", fmt.Sprint(status.Link.Host().V4), false},
				{"host to container (-R)", fmt.Sprint(status.Link.Host().V4), true},
				{"container to LAN neighbour", lab.NeighbourV4, false},
			} {
				got := sendDatagrams(b, s, way.host, load, way.back, effort.bulk, status.Daemon.PID)
				received.add(way.name, got.perSecond)
				lost.add(way.name, got.lost)
				cost.add(way.name, got.carrier)
			}
		}
		for _, t := range []*table{received, lost, cost} {
			t.print(out)
		}
	}
}

func sendDatagrams(b *testing.B, s *stage.Stage, host string, load datagramLoad, back bool, d time.Duration, daemon int) datagrams {
	b.Helper()
	args := []string{"exec", "client", "/bin/iperf3", "-J", "-u", "-c", host, "-p", iperfPort,
		"-l", fmt.Sprint(load.size), "-b", load.rate, "-t", fmt.Sprint(d.Seconds())}
	if back {
		args = append(args, "-R")
	}
	var report struct {
		End struct {
			Sum struct {
				Seconds float64
				Packets float64
				Lost    float64 `json:"lost_packets"`
			}
		}
	}
	p := path{name: load.name, client: s.Command}
	before := cpuSeconds(b, daemon)
	p.run(b, &report, "docker", args...)
	used := cpuSeconds(b, daemon) - before
	sum := report.End.Sum
	return datagrams{
		perSecond: (sum.Packets - sum.Lost) / sum.Seconds,
		lost:      100 * sum.Lost / sum.Packets,
		carrier:   used / sum.Packets * 1e6,
	}
}
