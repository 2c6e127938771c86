package soak

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// tally is what became of the jobs.
type tally struct {
	mu   sync.Mutex // guards what follows
	jobs map[string]*count
	bad  []string
}

type count struct {
	done, disturbed, failed, wrong int
	bytes                          int64
}

func newTally() *tally { return &tally{jobs: map[string]*count{}} }

// maxBad is how many failures are told one by one.
const maxBad = 20

func (y *tally) add(name string, bytes int64, err error, disturbed bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	c := y.jobs[name]
	if c == nil {
		c = &count{}
		y.jobs[name] = c
	}
	c.bytes += bytes
	switch {
	case err == nil:
		c.done++
		return
	case errors.Is(err, errWrong):
		c.wrong++
	case disturbed:
		c.disturbed++
		return
	default:
		c.failed++
	}
	if len(y.bad) < maxBad {
		y.bad = append(y.bad, fmt.Sprintf("%s %s: %v", time.Now().Format("15:04:05.000"), name, err))
	}
}

// check fails for each job that failed undisturbed, for wrong bytes, and for a
// kind that never worked.
func (y *tally) check(t testing.TB) {
	t.Helper()
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, line := range y.bad {
		t.Error(line)
	}
	for _, j := range jobs() {
		if c := y.jobs[j.name]; c == nil || c.done == 0 {
			t.Errorf("%s: not once", j.name)
		}
	}
}

func (y *tally) String() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	var out strings.Builder
	fmt.Fprintf(&out, "| traffic | done | ended by a kill | failed | wrong bytes | MB |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, name := range slices.Sorted(maps.Keys(y.jobs)) {
		c := y.jobs[name]
		fmt.Fprintf(&out, "| %s | %d | %d | %d | %d | %.1f |\n", name, c.done, c.disturbed, c.failed, c.wrong, float64(c.bytes)/1e6)
	}
	return out.String()
}

// outages is when what was away.
type outages struct {
	mu  sync.Mutex // guards all
	all []outage
}

type outage struct {
	what       string
	began, end time.Time // end is zero while it lasts
}

// echoTime is how long after a recovery something may still fail: a flow that
// was opened in the last moment of an outage learns of its end then.
const echoTime = time.Second

func (o *outages) begin(what string) (end func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := len(o.all)
	o.all = append(o.all, outage{what: what, began: time.Now()})
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.all[i].end = time.Now()
	}
}

// disturbed reports whether one of those was away between from and to.
func (o *outages) disturbed(what []string, from, to time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.all, func(one outage) bool {
		return slices.Contains(what, one.what) && one.began.Before(to) && (one.end.IsZero() || one.end.Add(echoTime).After(from))
	})
}

func (o *outages) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out strings.Builder
	fmt.Fprintf(&out, "| killed | times | back after, median | slowest |\n| --- | --- | --- | --- |\n")
	for _, victim := range victims {
		var took []time.Duration
		for _, one := range o.all {
			if one.what == victim {
				took = append(took, one.end.Sub(one.began))
			}
		}
		if slices.Sort(took); len(took) > 0 {
			fmt.Fprintf(&out, "| %s | %d | %v | %v |\n", victim, len(took),
				took[len(took)/2].Round(10*time.Millisecond), took[len(took)-1].Round(10*time.Millisecond))
		}
	}
	return out.String()
}

// holdings is what is counted before and after.
type holdings map[string]int

// spare is what may be more at any moment: a connection that is about to end.
// Memory is in kB; a new process has touched less of it than an old one.
func spare(name string) int {
	switch {
	case strings.HasSuffix(name, "kB"):
		return 16 << 10
	case strings.HasSuffix(name, "descriptors"), strings.HasSuffix(name, "goroutines"):
		return 6
	}
	return 0
}

func grown(before, after holdings) []string {
	var found []string
	for name, was := range before {
		if now := after[name]; now > was+spare(name) {
			found = append(found, fmt.Sprintf("%s: %d, then %d", name, was, now))
		}
	}
	return found
}

func compare(before, after holdings) string {
	var out strings.Builder
	fmt.Fprintf(&out, "| | before | after |\n| --- | --- | --- |\n")
	for _, name := range slices.Sorted(maps.Keys(before)) {
		fmt.Fprintf(&out, "| %s | %d | %d |\n", name, before[name], after[name])
	}
	return out.String()
}

// settleTime is longer than any association without traffic lives.
const settleTime = 4 * time.Minute

// settle counts until nothing is more than before.
func (r *soak) settle(t testing.TB, before holdings) holdings {
	t.Helper()
	began := time.Now()
	for ; ; time.Sleep(time.Second) {
		now := r.hold(t)
		if len(grown(before, now)) == 0 || time.Since(began) > settleTime {
			t.Logf("at rest after %v", time.Since(began).Round(time.Second))
			return now
		}
	}
}

// hold counts what the processes hold, and what is in machine and router.
func (r *soak) hold(t testing.TB) holdings {
	t.Helper()
	status := r.s.Status(t)
	h := holdings{"daemon: goroutines": status.Goroutines, "published ports": len(status.Ports)}
	for name, pid := range map[string]int{
		"daemon": status.Daemon.PID, "helper": status.Helper.PID, "PID 1": status.Machine.PID,
		"keeper": r.keeper(t), "agent": r.pid(t, "agent"), "deputy": deputy(t, status.Daemon.PID),
	} {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		h[name+": descriptors"] = len(files)
		h[name+": kB"] = resident(t, pid)
	}
	for name, pid := range map[string]int{"machine": status.Machine.PID, "router": status.Helper.PID} {
		h[name+": nftables lines"] = lines(t, pid, "nft -s -t list ruleset")
		h[name+": routes and rules"] = lines(t, pid, "ip route show table all; ip -6 route show table all; ip rule; ip -6 rule")
		h[name+": interfaces"] = lines(t, pid, "ip -o link")
		h[name+": listeners"] = lines(t, pid, "ss -lntuH")
	}
	h["host: listeners"] = lines(t, status.Daemon.PID, "ss -lntuH")
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", status.Machine.PID))
	if err != nil {
		t.Fatal(err)
	}
	h["machine: mounts of the engine"] = strings.Count(string(mounts), "/docker")
	h["machine: processes"], h["machine: network namespaces"], h["machine: zombies"] = inside(t, status.Machine.PID)
	return h
}

// deputy is the daemon's only child.
func deputy(t testing.TB, daemon int) int {
	t.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", daemon)) // the pattern is right
	for _, path := range files {
		text, _ := os.ReadFile(path) // a thread that has ended has none
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			return pid
		}
	}
	t.Fatalf("daemon %d has no deputy, or another child", daemon)
	return 0
}

func (r *soak) keeper(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(r.s.RunDir, "default", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// resident is a process's memory in kB.
func resident(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	kB, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	n, err := strconv.Atoi(kB)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// lines runs a script in a process's network namespace and counts what it says.
func lines(t testing.TB, pid int, script string) int {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nsenter", "-t", strconv.Itoa(pid), "--net", "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	count := 0
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "fe80:") { // the kernel gives link-local addresses when it likes
			count++
		}
	}
	return count
}

// inside counts the machine's processes, their network namespaces, and zombies:
// PID 1 and all that come from it.
func inside(t testing.TB, init int) (processes, networks, zombies int) {
	t.Helper()
	type process struct {
		parent int
		zombie bool
	}
	all := map[int]process{}
	paths, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	for _, path := range paths {
		stat, _ := os.ReadFile(path) // of one that has ended: nothing
		_, after, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(after)
		if len(fields) < 2 {
			continue
		}
		pid, pidErr := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parent, parentErr := strconv.Atoi(fields[1])
		if err := errors.Join(pidErr, parentErr); err != nil {
			t.Fatal(err)
		}
		all[pid] = process{parent, fields[0] == "Z"}
	}
	seen := map[string]bool{}
	for pid := range all {
		ancestor := pid
		for ancestor > 1 && ancestor != init {
			ancestor = all[ancestor].parent
		}
		if ancestor != init {
			continue
		}
		processes++
		if all[pid].zombie {
			zombies++
		}
		if net, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil {
			seen[net] = true
		}
	}
	return processes, len(seen), zombies
}
