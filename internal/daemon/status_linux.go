package daemon

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/publish"
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
	}
	ports := d.ports
	d.mu.Unlock()
	if ports != nil {
		s.Ports = append(s.Ports, ports.List()...)
	}
	if s.Engine.Ready {
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		count, err := runningContainers(ctx, d.Profile.EngineSocket())
		if err != nil {
			s.Problems = append(s.Problems, fmt.Sprintf("the engine does not list its containers: %v; see: portolan logs --source engine", err))
		}
		s.Engine.Containers = count
	}
	s.Problems = append(s.Problems, problems(s)...)
	if s.State == api.Running && len(s.Problems) > 0 {
		s.State = api.Degraded
	}
	return s
}

// problems names what a user should know, and what to do about it.
func problems(s api.Status) []string {
	var found []string
	if s.State == api.Running && !s.Engine.Ready {
		found = append(found, fmt.Sprintf("the engine does not answer (%s); it is being restarted, see: portolan logs --source engine", s.Engine.LastExit))
	}
	for _, port := range s.Ports {
		if port.Error != "" {
			found = append(found, fmt.Sprintf("port %s is not published: %s", port.Binding, port.Error))
		}
	}
	return found
}

func (d *daemon) setPorts(table *publish.Table) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ports = table
}

// setEngine takes what the agent reports.
func (d *daemon) setEngine(e api.Engine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.engine = e
	if e.Ready && !d.isReady() {
		close(d.ready)
	}
}

// engineTrouble says why the engine did not get ready, as far as is known.
func (d *daemon) engineTrouble() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.engine.LastExit != "" {
		return d.engine.LastExit
	}
	return "no exit was reported"
}
