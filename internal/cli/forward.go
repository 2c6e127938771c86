package cli

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/hostservice"
)

const forwardHelp = `Carries single sockets between this host and the machine in which containers
run. A forward is kept, also across 'portolan down' and a restart of the host,
until it is removed.

The user's ssh-agent needs none: see 'portolan ssh-agent'.`

const forwardAddHelp = `Listens on LISTEN, on the side that --from names, and carries each connection to
TO on the other side. Both are written unix:PATH or tcp:ADDRESS:PORT.

--from machine: containers reach something of this host. LISTEN is a socket
below /run of the machine, which is mounted into containers; or a port of the
machine's loopback, which containers with --network host have. unix:NAME is short
for /run/host-services/NAME.

--from host: this host reaches something of the machine, in the same way: a
socket anywhere, or a port of this host's loopback. unix:NAME is short for a
socket in the profile's directory of forwards.

What rules an engine, or Portolan, is refused as TO, be it a socket or a TCP port:
whoever reaches it has all containers, and the files of its user.`

const forwardExample = `  portolan forward add unix:pg.sock unix:/run/postgresql/.s.PGSQL.5432 --from machine
  docker run --mount type=bind,src=/run/host-services/pg.sock,target=/pg/.s.PGSQL.5432 ...
  portolan forward add tcp:127.0.0.1:9000 tcp:127.0.0.1:9000 --from host
  portolan forward add unix:$HOME/app.sock unix:/run/app/app.sock --from host
  portolan forward ls
  portolan forward rm unix:pg.sock --from machine`

func (g *global) forwardCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "forward", Short: "Carry sockets between this host and containers", Long: forwardHelp, Example: forwardExample,
		Args: noSuchCommand, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		g.forwardChange("add LISTEN TO", "Add a forward", forwardAddHelp, 2, g.addForward),
		g.forwardChange("rm LISTEN", "Remove a forward, and end its connections", "Removes the forward that listens on LISTEN, and ends its connections.", 1,
			func(ctx context.Context, f api.Forward) error { return g.client().RemoveForward(ctx, f) }),
		&cobra.Command{
			Use: "ls", Aliases: []string{"list"}, Short: "List forwards", Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return g.listForwards(cmd.Context()) },
		})
	return cmd
}

// forwardChange is a command about one forward, of which n endpoints are named.
func (g *global) forwardChange(use, short, long string, n int, do func(context.Context, api.Forward) error) *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: forwardExample,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != n {
				return usagef("want: portolan forward %s --from host|machine", use)
			}
			for _, arg := range args {
				if _, err := hostservice.ParseEndpoint(arg); err != nil {
					return usageError{err}
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if side := hostservice.Side(from); side != hostservice.Host && side != hostservice.Machine {
				return usagef("--from %q: want host or machine, the side that listens", from)
			}
			f := api.Forward{From: from, Listen: args[0]}
			if n > 1 {
				f.To = args[1]
			}
			return do(cmd.Context(), f)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the `SIDE` that listens: host or machine")
	return cmd
}

func (g *global) addForward(ctx context.Context, f api.Forward) error {
	added, err := g.client().AddForward(ctx, f)
	if err != nil {
		return err
	}
	if g.json {
		return g.printJSON(added)
	}
	g.printf("%s of the %s leads to %s\n", added.Listen, added.From, added.To)
	return nil
}

func (g *global) listForwards(ctx context.Context) error {
	list, err := g.client().Forwards(ctx)
	if err != nil {
		return err
	}
	if list.Problem != "" {
		g.warnf("%s", list.Problem)
	}
	if g.json {
		return g.printJSON(list.Forwards)
	}
	printForwards(g.Out, list.Forwards)
	return nil
}

func printForwards(out io.Writer, forwards []api.Forward) {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "FROM\tLISTEN\tTO\tSTATE")
	for _, f := range forwards {
		state := "open"
		if f.Error != "" {
			state = f.Error
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.From, f.Listen, f.To, state)
	}
	_ = w.Flush()
}
