package bench

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/portolan-net/portolan/bench/report"
)

// direction is out of where the contestant isolates, back, or into it by a published port.
type direction struct{ id, title, word string }

func directions() []direction {
	return []direction{{"out", "out", "out"}, {"back", "back", "back"}, {"published", "published", "out"}}
}

func (d direction) way(c *contestant) *way {
	if d.id == "published" {
		return c.published
	}
	return c.out
}

// A byte that is proxied crosses the kernel twice, from socket to socket.
var (
	halfSpeed  = report.Limit{Of: report.Loopback, Factor: 0.5}
	doubleCost = report.Limit{Of: report.Loopback, Factor: 2}
	// What the server does weighs more than the way to it.
	sameSpeed = report.Limit{Of: report.Loopback, Factor: 1}
)

// measureBulk runs 1, 4 and 16 flows in each direction, and says what one costs.
func measureBulk(b *testing.B, r *recorder, all []*contestant, d time.Duration) {
	b.Helper()
	for _, flows := range []int{1, 4, 16} {
		for _, dir := range directions() {
			speed := column{fmt.Sprintf("bulk-%s/%d", dir.id, flows), plural(flows, "flow"), "Gbit/s", false, halfSpeed}
			cost := column{"cpu/" + dir.id, dir.title, "s/GB", true, doubleCost}
			for _, c := range all {
				w := dir.way(c)
				if w == nil || r.skips(speed, c.Name) {
					continue
				}
				var got struct {
					Bytes, Seconds, CPU float64
				}
				before := c.seconds(w)
				if err := w.probe(b.Context(), &got, "bulk", d.String(), fmt.Sprint(flows), dir.word); err != nil {
					r.drop(c.Name, err, speed)
					continue
				}
				r.add("Bulk TCP, "+dir.title, speed, c.Name, got.Bytes*8/got.Seconds/1e9)
				if flows == 1 {
					r.add("CPU time of all processes", cost, c.Name, (got.CPU+c.seconds(w)-before)/(got.Bytes/1e9))
				}
			}
		}
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// small is one measurement of small requests.
type small struct{ PerSecond, P50, P99 float64 }

func measureSmall(b *testing.B, r *recorder, all []*contestant, d time.Duration) {
	b.Helper()
	for _, dir := range directions() {
		if dir.id == "back" {
			continue
		}
		p50 := column{"requests/" + dir.id + "-p50", dir.title + ", p50", "us", true, doubleCost}
		p99 := column{"requests/" + dir.id + "-p99", dir.title + ", p99", "us", true, doubleCost}
		for _, c := range all {
			w := dir.way(c)
			if w == nil || r.skips(p50, c.Name) {
				continue
			}
			var got small
			if err := w.probe(b.Context(), &got, "request", d.String()); err != nil {
				r.drop(c.Name, err, p50, p99)
			}
			r.add("Request and answer of 64 bytes", p50, c.Name, got.P50)
			r.add("Request and answer of 64 bytes", p99, c.Name, got.P99)
			for _, atOnce := range []int{1, 8} {
				rate := column{fmt.Sprintf("connects/%s-%d", dir.id, atOnce), fmt.Sprintf("%s, %d at a time", dir.title, atOnce), "per second", false, halfSpeed}
				if r.skips(rate, c.Name) {
					continue
				}
				if err := w.probe(b.Context(), &got, "connect", d.String(), fmt.Sprint(atOnce)); err != nil {
					r.drop(c.Name, err, rate)
				}
				r.add("Connect, request, answer, close", rate, c.Name, got.PerSecond)
			}
		}
	}
}

// measureDatagrams sends what it can, and 1 Gbit/s.
func measureDatagrams(b *testing.B, r *recorder, all []*contestant, d time.Duration) {
	b.Helper()
	for _, load := range []struct{ id, title, size, rate string }{
		{"64", "64 bytes", "64", "0"}, {"1400", "1,400 bytes", "1400", "0"}, {"1400-1g", "1,400 bytes at 1 Gbit/s", "1400", "1e9"},
	} {
		for _, dir := range directions() {
			if dir.id == "back" {
				continue
			}
			rate := column{"udp-" + dir.id + "/" + load.id, load.title + ", received", "per second", false, halfSpeed}
			loss := column{"udp-" + dir.id + "/" + load.id + "-loss", load.title + ", lost", "percent", true, report.Limit{}}
			if load.rate != "0" {
				rate.limit.Factor = 1
			}
			for _, c := range all {
				w := dir.way(c)
				if w == nil || r.skips(rate, c.Name) {
					continue
				}
				var got struct{ PerSecond, Lost, Received float64 }
				err := w.probe(b.Context(), &got, "datagrams", d.String(), load.size, load.rate)
				if err == nil && got.Received == 0 {
					err = fmt.Errorf("no datagram came through")
				}
				if err != nil {
					r.drop(c.Name, err, rate, loss)
				}
				r.add("UDP, "+dir.title, rate, c.Name, got.PerSecond)
				r.add("UDP, "+dir.title, loss, c.Name, got.Lost)
			}
		}
	}
}

// measureDNS asks each contestant's resolver for a name that it has in its cache.
func measureDNS(b *testing.B, r *recorder, all []*contestant, d time.Duration) {
	b.Helper()
	rate := column{"dns/rate", "8 at a time", "queries/s", false, report.Limit{}}
	p99 := column{"dns/p99", "8 at a time, p99", "us", true, report.Limit{}}
	for _, c := range all {
		if c.resolver == nil || r.skips(rate, c.Name) {
			continue
		}
		var got small
		if err := c.resolver.probe(b.Context(), &got, "dns", d.String(), "8", name); err != nil {
			r.drop(c.Name, err, rate, p99)
		}
		r.add("DNS, the same name again and again", rate, c.Name, got.PerSecond)
		r.add("DNS, the same name again and again", p99, c.Name, got.P99)
	}
}

// measureHTTP runs wrk against nginx. wrk counts whole seconds.
func measureHTTP(b *testing.B, r *recorder, all []*contestant, d time.Duration) {
	b.Helper()
	rate := column{"http/rate", "16 connections", "requests/s", false, sameSpeed}
	p99 := column{"http/p99", "16 connections, p99", "us", true, sameSpeed}
	program, err := find("wrk")
	if err != nil {
		r.absent("HTTP: wrk", err)
		return
	}
	for _, c := range all {
		if c.published == nil || r.skips(rate, c.Name) {
			continue
		}
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		out, err := output(c.published.client(ctx, program, "-t1", "-c16", fmt.Sprintf("-d%d", max(1, int(d.Seconds()))), "--latency", "http://"+c.published.web+"/"))
		cancel()
		perSecond, slow := 0.0, time.Duration(0)
		if err == nil {
			perSecond, slow, err = readWrk(out)
		}
		if err != nil {
			r.drop(c.Name, err, rate, p99)
		}
		r.add("HTTP through a published port", rate, c.Name, perSecond)
		r.add("HTTP through a published port", p99, c.Name, float64(slow.Nanoseconds())/1e3)
	}
}

var (
	wrkRate = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkSlow = regexp.MustCompile(`\s99%\s+(\S+)`)
)

func readWrk(out []byte) (perSecond float64, p99 time.Duration, err error) {
	rate, slow := wrkRate.FindSubmatch(out), wrkSlow.FindSubmatch(out)
	if rate == nil || slow == nil || bytes.Contains(out, []byte("Non-2xx")) {
		return 0, 0, fmt.Errorf("wrk says %q", out)
	}
	if perSecond, err = strconv.ParseFloat(string(rate[1]), 64); err != nil {
		return 0, 0, err
	}
	if perSecond == 0 {
		return 0, 0, fmt.Errorf("wrk got no answer: %q", out)
	}
	p99, err = time.ParseDuration(string(slow[1]))
	return perSecond, p99, err
}
