package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// versions is what `version --json` prints. Daemon, agent and engine are known
// while the machine runs.
type versions struct {
	Portolan string `json:"portolan"`
	Daemon   string `json:"daemon,omitempty"`
	Agent    string `json:"agent,omitempty"`
	Engine   string `json:"engine,omitempty"`
}

func (g *global) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the versions of Portolan and of what runs",
		Long:    "Prints the version of this program and, while the machine runs, of its daemon,\nits agent and its engine. After an upgrade the daemon is the old one until\n'portolan up', with which the new one takes the machine over.",
		Example: "  portolan version --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Portolan: g.Version}
			if status, err := g.status(cmd.Context()); err == nil {
				v.Daemon, v.Agent, v.Engine = status.Daemon.Version, status.Machine.Version, status.Engine.Version
			}
			if g.json {
				return g.printJSON(v)
			}
			w := tabwriter.NewWriter(g.Out, 0, 8, 2, ' ', 0)
			for _, line := range []struct{ name, version string }{
				{"portolan", v.Portolan}, {"daemon", v.Daemon}, {"agent", v.Agent}, {"engine", v.Engine},
			} {
				if line.version != "" {
					_, _ = fmt.Fprintf(w, "%s\t%s\n", line.name, line.version)
				}
			}
			return w.Flush()
		},
	}
}
