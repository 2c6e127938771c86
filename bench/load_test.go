package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"testing"
	"time"
)

// ports of the servers, wherever they run.
const (
	iperfPort = "5201"
	probePort = "5202"
)

// path is one way from a client to a server.
type path struct {
	name   string
	client commander
	iperf  string // the client's iperf3
	probe  string // the client's probe
	host   string // the server as the client sees it
	ports  [2]string

	carrier int // the process that carries the bytes, 0 when the kernel does
}

// flow is one run of iperf3.
type flow struct {
	gigabits float64 // per second, as the receiver got them
	cpu      float64 // seconds for each gigabyte, of client, server and carrier
}

// bulk sends over one TCP flow from the client or, reversed, to it.
func (p path) bulk(t testing.TB, d time.Duration, reverse bool) flow {
	t.Helper()
	args := []string{"-J", "-c", p.host, "-p", p.ports[0], "-t", fmt.Sprint(d.Seconds())}
	if reverse {
		args = append(args, "-R")
	}
	var report struct {
		Error string
		End   struct {
			Received struct {
				Bytes, Seconds float64
			} `json:"sum_received"`
			CPU struct {
				Client float64 `json:"host_total"`
				Server float64 `json:"remote_total"`
			} `json:"cpu_utilization_percent"`
		}
	}
	before := p.carrierSeconds(t)
	p.run(t, &report, p.iperf, args...)
	carrier := p.carrierSeconds(t) - before
	got, cpu := report.End.Received, report.End.CPU
	return flow{
		gigabits: got.Bytes * 8 / got.Seconds / 1e9,
		cpu:      (carrier + (cpu.Client+cpu.Server)/100*got.Seconds) / (got.Bytes / 1e9),
	}
}

func (p path) carrierSeconds(t testing.TB) float64 {
	t.Helper()
	if p.carrier == 0 {
		return 0
	}
	return cpuSeconds(t, p.carrier)
}

// small is one measurement of the probe.
type small struct{ PerSecond, P50, P99 float64 }

func (p path) requests(t testing.TB, d time.Duration) (got small) {
	t.Helper()
	p.run(t, &got, p.probe, "request", p.host+":"+p.ports[1], d.String())
	return got
}

func (p path) connects(t testing.TB, d time.Duration, atOnce int) (got small) {
	t.Helper()
	p.run(t, &got, p.probe, "connect", p.host+":"+p.ports[1], d.String(), fmt.Sprint(atOnce))
	return got
}

func (p path) run(t testing.TB, into any, name string, args ...string) {
	t.Helper()
	cmd := p.client(t.Context(), name, args...)
	out, err := output(cmd)
	if err != nil {
		t.Fatalf("%s: %v: %v\n%s", p.name, cmd.Args, err, out)
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("%s: %v\n%s", p.name, err, out)
	}
}

// output is the program's standard output; after a failure both outputs.
func output(cmd *exec.Cmd) ([]byte, error) {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if err != nil {
		out.Write(errOut.Bytes())
	}
	return out.Bytes(), err
}

// serve starts an iperf3 server and a probe server.
func serve(t testing.TB, where commander, addr, probe string) {
	t.Helper()
	start(t, where(t.Context(), mustFind(t, "iperf3"), "-s", "-B", addr, "-p", iperfPort))
	start(t, where(t.Context(), probe, "serve", addr+":"+probePort))
	eventually(t, "servers listen", func() bool {
		for _, port := range []string{iperfPort, probePort} {
			if listening, err := output(where(t.Context(), "ss", "-Hltn", "sport = :"+port)); err != nil || len(listening) == 0 {
				return false
			}
		}
		return true
	})
}
