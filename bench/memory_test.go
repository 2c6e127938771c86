package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/stage"
)

// measureIdleFlows opens many connections that do nothing, and says what they
// cost those who carry them. Who carries in the kernel is left out.
func measureIdleFlows(b *testing.B, r *recorder, all []*contestant) {
	b.Helper()
	for _, c := range all {
		ways := c.idle
		switch {
		case len(c.carriers()) == 0 || c.sameProcess:
			continue
		case ways == nil && c.out != nil:
			ways = []*way{c.out}
		case ways == nil:
			ways = []*way{c.published}
		}
		memory, files := c.footprint(b)
		for _, n := range []int{1000, 10000} {
			if err := c.holdFlows(b, r, ways, n, memory, files); err != nil {
				r.drop(c.Name, err, column{id: fmt.Sprintf("idle/%d-memory", n)})
			}
		}
	}
}

// holdFlows opens n flows; memory and files is what the carriers had before any.
func (c *contestant) holdFlows(b *testing.B, r *recorder, ways []*way, n int, memory, files float64) error {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 3*time.Minute)
	defer cancel()
	total, why := 0, ""
	for _, w := range ways {
		cmd := w.client(ctx, probe, "idle", w.addr, fmt.Sprint(n/len(ways)))
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		defer func() {
			_ = in.Close() // that is what ends it
			_ = cmd.Wait() // its connections may have been cut
		}()
		var got struct {
			Held  int
			Error string
		}
		if err := json.NewDecoder(out).Decode(&got); err != nil {
			return fmt.Errorf("hold %d flows: %w", n, err)
		}
		total += got.Held
		why = got.Error
	}
	if why != "" {
		r.absent(fmt.Sprintf("%s, more than %d of %d idle flows", c.Name, total, n), fmt.Errorf("%s", why))
	}
	if total == 0 {
		return fmt.Errorf("no flow stands")
	}
	moreMemory, moreFiles := c.footprint(b)
	group := fmt.Sprintf("Idle flows, %d wanted", n)
	id := func(what string) string { return fmt.Sprintf("idle/%d-%s", n, what) }
	r.add(group, column{id: id("held"), title: "held", unit: "flows"}, c.Name, float64(total))
	r.add(group, column{id: id("memory"), title: "memory", unit: "KiB a flow", less: true}, c.Name, 1024*(moreMemory-memory)/float64(total))
	r.add(group, column{id: id("all"), title: "memory in all", unit: "MiB", less: true}, c.Name, moreMemory)
	r.add(group, column{id: id("files"), title: "descriptors", unit: "a flow", less: true}, c.Name, (moreFiles-files)/float64(total))
	return nil
}

// footprint is the resident memory and the open files of the carriers.
func (c *contestant) footprint(b *testing.B) (mebibytes, files float64) {
	b.Helper()
	for _, pid := range c.carriers() {
		mebibytes += residentMiB(b, pid)
		files += descriptors(b, pid)
	}
	return mebibytes, files
}

// measureMemory reads the resident memory of Portolan's processes.
func measureMemory(b *testing.B, r *recorder, s *stage.Stage, id, title string, idleFor time.Duration) {
	b.Helper()
	time.Sleep(idleFor) // idleness is what is measured
	status := s.Status(b)
	for _, p := range []struct {
		name string
		pid  int
	}{
		{"daemon", status.Daemon.PID}, {"router helper", status.Helper.PID}, {"init", status.Machine.PID},
		{"agent", s.MachineProcess(b, "portolan-agent serve")},
	} {
		r.add("Memory of Portolan's processes", column{id: "memory/" + id, title: title, unit: "MiB", less: true}, p.name, residentMiB(b, p.pid))
		r.add("Memory of Portolan's processes", column{id: "memory/" + id + "-files", title: title, unit: "descriptors", less: true}, p.name, descriptors(b, p.pid))
	}
}
