package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/cli/launch"
	"github.com/portolan-net/portolan/internal/client"
	"github.com/portolan-net/portolan/internal/portolan"
)

const statusHelp = `Shows the machine, its processes, its engine and the published ports.

The state is stopped, starting, running, degraded (the problems say what to do)
or stopping. The exit code is 0 in every state that could be found out: scripts
read .state of --json.`

const statusExample = `  portolan status
  portolan status --json | jq -r .state
  ls /proc/$(portolan status --json | jq .daemon.pid)/fd`

func (g *global) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Show what runs",
		Long:    statusHelp,
		Example: statusExample,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := g.statusOrStopped(cmd.Context())
			if err != nil {
				return err
			}
			if g.json {
				return g.printJSON(status)
			}
			g.printStatus(status, time.Now())
			return nil
		},
	}
}

// statusOrStopped is the daemon's answer, or what is known without a daemon.
func (g *global) statusOrStopped(ctx context.Context) (api.Status, error) {
	status, err := g.status(ctx)
	if !errors.Is(err, client.ErrNotRunning) {
		return status, err
	}
	status = api.Status{
		Profile:    g.profile.Name,
		State:      api.Stopped,
		DockerHost: g.dockerHost(),
		Context:    g.profile.ContextName(),
		Link:       portolan.DefaultLink(),
		Ports:      []api.Port{},
	}
	if holder, held := launch.Holder(g.profile.LockFile()); held {
		status.State, status.Daemon.PID = api.Starting, holder
	} else if g.Platform.Remains != nil {
		g.addRemains(&status)
	}
	return status, nil
}

// addRemains tells of a machine whose daemon died.
func (g *global) addRemains(status *api.Status) {
	var err error
	status.Helper, status.Machine, err = g.Platform.Remains(g.profile)
	switch {
	case err != nil:
		status.Problems = []string{fmt.Sprintf("whether a machine runs can't be told: %v", err)}
	case status.Machine.PID != 0:
		status.Problems = []string{fmt.Sprintf("the daemon is gone: containers run, but nothing reaches them, nor they anything; take them over with: %s, or end them with: %s",
			g.command("up"), g.command("down"))}
	case status.Helper.PID != 0:
		status.Problems = []string{"the runtime directory was removed while the machine ran: nobody can use it any more; end it with: " + g.command("down")}
	default:
		return
	}
	status.State = api.Degraded
}

func (g *global) printStatus(s api.Status, now time.Time) {
	w := tabwriter.NewWriter(g.Out, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("profile", "%s", s.Profile)
	row("state", "%s", s.State)
	if s.State == api.Stopped {
		_ = w.Flush()
		g.printf("start it with: %s\n", g.command("up"))
		return
	}
	row("docker", "--context %s, or DOCKER_HOST=%s", s.Context, s.DockerHost)
	row("engine", "%s", describeEngine(s.Engine))
	row("network", "%s, %s", s.Link.V4, s.Link.V6)
	if s.Mode != "" {
		row("mode", "%s", s.Mode)
	}
	if c := s.Connection; c != nil {
		row("connected", "%s", describeConnection(*c))
		for _, refused := range c.Refused {
			row("", "not to %s", refused)
		}
	}
	for _, p := range []struct {
		name string
		api.Process
	}{{"daemon", s.Daemon}, {"router helper", s.Helper}, {"machine", s.Machine}} {
		if p.PID != 0 {
			row(p.name, "pid %d, up %s", p.PID, age(now, p.Since))
		}
	}
	for i, port := range s.Ports {
		name := "ports"
		if i > 0 {
			name = ""
		}
		row(name, "%s", describePort(port))
	}
	for _, pending := range s.Pending {
		row("pending", "%s", pending)
	}
	for _, problem := range s.Problems {
		row("problem", "%s", problem)
	}
	_ = w.Flush()
}

func describeEngine(e api.Engine) string {
	if !e.Ready {
		return strings.TrimSuffix("not ready: "+e.LastExit, ": ")
	}
	text := fmt.Sprintf("%s (%s), %d containers run", e.Version, e.Source, e.Containers)
	if e.Restarts > 0 {
		text += fmt.Sprintf(", restarted %d times, last: %s", e.Restarts, e.LastExit)
	}
	return text
}

func describePort(p api.Port) string {
	if p.Error != "" {
		return p.Binding.String() + "  FAILED: " + p.Error
	}
	return p.Binding.String()
}

// age is how long ago since was, in the largest two units that matter.
func age(now, since time.Time) string {
	if since.IsZero() {
		return "?"
	}
	d := now.Sub(since)
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	case d >= time.Minute:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return max(d, 0).Round(time.Second).String()
}
