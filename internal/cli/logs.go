package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/cli/logs"
)

const logsHelp = `Shows what the profile's processes wrote, merged by time, each line after the
name of its source: daemon (on the host), helper (the router's), agent, engine
(dockerd) and containerd (in the machine), connect (the connector). The logs
outlive the machine, so they can be read when it does not run.`

const logsExample = `  portolan logs                      # the last 100 lines
  portolan logs -f --source engine   # dockerd's, as they come
  portolan logs -n -1                # everything`

// defaultLines fits what one wants to see after a failure.
const defaultLines = 100

func (g *global) logsCommand() *cobra.Command {
	var follow bool
	var lines int
	var sources []string
	cmd := &cobra.Command{
		Use:     "logs",
		Short:   "Show the logs of daemon, agent and engine",
		Long:    logsHelp,
		Example: logsExample,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lines < -1 {
				return usagef("--lines %d: want a number of lines, or -1 for all", lines)
			}
			for _, source := range sources {
				if !slices.Contains(logs.Sources(), source) {
					return usagef("--source %q: want %s", source, strings.Join(logs.Sources(), ", "))
				}
			}
			return g.logs(cmd.Context(), sources, lines, follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as more is written")
	cmd.Flags().IntVarP(&lines, "lines", "n", defaultLines, "how many lines to begin with; -1 is all")
	cmd.Flags().StringSliceVar(&sources, "source", logs.Sources(), "which logs, as a comma-separated list")
	return cmd
}

func (g *global) logs(ctx context.Context, sources []string, n int, follow bool) error {
	reader := logs.Open(g.profile.LogDir(), sources)
	defer reader.Close()
	width := 0
	for _, source := range sources {
		width = max(width, len(source))
	}
	emit := func(line logs.Line) {
		if g.json {
			_ = writeJSON(g.Out, line, "")
			return
		}
		g.printf("%-*s | %s\n", width, line.Source, line.Text)
	}
	last, err := reader.Read(n)
	if err != nil {
		return err
	}
	for _, line := range last {
		emit(line)
	}
	if follow {
		return reader.Follow(ctx, emit)
	}
	if len(last) == 0 && n != 0 {
		g.warnf("there are no logs in %s", g.profile.LogDir())
	}
	return nil
}

// daemonLog is where a daemon in the background writes.
func (g *global) daemonLog() string {
	return fmt.Sprintf("%s/%s.log", g.profile.LogDir(), logs.Sources()[0])
}
