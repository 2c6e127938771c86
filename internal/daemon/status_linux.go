package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/engine"
	"github.com/portolan-net/portolan/internal/publish"
	"github.com/portolan-net/portolan/internal/settings"
)

// statusTimeout bounds what status asks of the engine.
const statusTimeout = time.Second

// status collects what `portolan status` shows.
func (d *daemon) status(ctx context.Context) api.Status {
	d.mu.Lock()
	s := api.Status{
		Profile:    d.Profile.Name,
		State:      d.state,
		DockerHost: "unix://" + d.Profile.DockerSocket(),
		Context:    d.Profile.ContextName(),
		Link:       d.spec.Link,
		Daemon:     api.Process{PID: os.Getpid(), Since: d.started, Version: d.Version},
		Helper:     api.Process{PID: d.record.Helper.PID, Since: d.record.Helper.Since, Version: d.record.Version},
		Machine:    api.Process{PID: d.record.Init.PID, Since: d.record.Init.Since, Version: d.record.Version},
		Engine:     d.engine,
		Ports:      []api.Port{},
		Goroutines: runtime.NumGoroutine(),
	}
	ports := d.ports
	d.mu.Unlock()
	s.Mode = d.mode()
	s.Connection = d.connection()
	s.Problems = append(s.Problems, d.settings.Snapshot().Problems...)
	s.Problems = append(s.Problems, d.proxyProblems()...)
	if f := d.forwarding.Load(); f != nil && f.table.Bad() != nil {
		s.Problems = append(s.Problems, f.table.Bad().Error())
	}
	if text := d.offload.problem(); text != "" {
		s.Problems = append(s.Problems, text)
	}
	s.Problems = append(s.Problems, d.clashes(d.families.hostRoutes())...)
	if s.Engine.Refused != "" {
		s.Problems = append(s.Problems, fmt.Sprintf("%s: %s; those with which it last started are in force; choose others: portolan settings set %s ..., or go back: portolan settings unset %s",
			settings.KeyEngine, s.Engine.Refused, settings.KeyEngine, settings.KeyEngine))
	}
	if ports != nil {
		s.Ports = append(s.Ports, ports.List()...)
	}
	if h := d.hostNet.Load(); h != nil {
		s.Ports = append(s.Ports, h.list()...)
	}
	if s.Engine.Ready {
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		count, err := runningContainers(ctx, d.Profile.EngineSocket())
		if err != nil {
			s.Problems = append(s.Problems, fmt.Sprintf("the engine does not list its containers: %v; see: portolan logs --source engine", err))
		}
		s.Engine.Containers = count
		s.Pending = d.pending(ctx)
	}
	s.Problems = append(append(s.Problems, problems(s)...), d.limits()...)
	if s.State == api.Running && len(s.Problems) > 0 {
		s.State = api.Degraded
	}
	return s
}

// problems names what a user should know, and what to do about it.
func problems(s api.Status) []string {
	var found []string
	if s.State == api.Running && !s.Engine.Ready {
		why := ""
		if s.Engine.LastExit != "" {
			why = " (" + s.Engine.LastExit + ")"
		}
		found = append(found, fmt.Sprintf("the engine does not answer%s; it is being restarted, see: portolan logs --source engine", why))
	}
	for _, port := range s.Ports {
		if port.Error != "" {
			found = append(found, fmt.Sprintf("port %s is not published: %s", port.Binding, port.Error))
		}
	}
	return found
}

func (d *daemon) setPorts(table *publish.Table, added *addedPorts) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ports, d.added = table, added
}

// maxFailedStarts is how often dockerd or containerd may end before the engine
// has answered once; more attempts would only hide the reason.
const maxFailedStarts = 3

// setEngine takes what the agent reports.
func (d *daemon) setEngine(e api.Engine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.engine
	d.engine, d.heard = e, true
	switch {
	case e.Refused != "":
		d.configured.Options = d.spec.GoodOptions
	case e.Ready && !before.Ready:
		d.keepGoodLocked()
	}
	switch {
	case closed(d.ready), closed(d.hopeless):
	case e.Ready:
		close(d.ready)
	case before == (api.Engine{}):
		// A daemon that takes over finds what earlier ones saw counted already.
	case e.Restarts >= maxFailedStarts && before.Restarts < maxFailedStarts:
		close(d.hopeless)
	}
}

// engineTrouble says why the engine did not get ready, as far as is known: how
// it ended, and its own last word.
func (d *daemon) engineTrouble() string {
	d.mu.Lock()
	exit, heard := d.engine.LastExit, d.heard
	d.mu.Unlock()
	if !heard {
		return "the agent has not reported; see: portolan logs --source agent"
	}
	if exit == "" {
		return "it runs, but does not answer; see: portolan logs --source engine"
	}
	program, _, _ := strings.Cut(exit, " ")
	file := filepath.Join(d.Profile.LogDir(), map[string]string{"dockerd": "engine.log", "containerd": "containerd.log"}[program])
	return fmt.Sprintf("%s: %s (all of it is in %s)", exit, engine.LastLine(file), file)
}

func (d *daemon) heardAgent() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.heard
}

func (d *daemon) agentLog() string { return filepath.Join(d.Profile.LogDir(), "agent.log") }

// agentLife says how often the agent of a new machine has ended, and its last
// word.
func (d *daemon) agentLife() (deaths int, word string) {
	text, err := os.ReadFile(d.agentLog())
	if err != nil || d.adopted || int64(len(text)) < d.agentLogStart {
		return 0, ""
	}
	return parseAgentLog(string(text[d.agentLogStart:]))
}

// parseAgentLog tells what PID 1 writes about the agent's end from what the agent
// writes.
func parseAgentLog(log string) (deaths int, word string) {
	for line := range strings.Lines(log) {
		switch line = strings.TrimSpace(line); {
		case strings.Contains(line, `msg="agent ended"`), strings.Contains(line, `msg="start agent"`):
			deaths++
			if word == "" {
				word = line
			}
		case line != "":
			word = line
		}
	}
	return deaths, word
}
