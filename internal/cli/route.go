package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/api"
)

const routeHelp = `Says which way a destination would take, and why: direct, by way of which proxy,
or not at all; and which setting, which exclusion or which line of a PAC script
decided that. Nothing is connected to. A PAC script is asked, and may look names
up.

Two answers are given, one for the engine's own pulls and pushes (setting proxy)
and one for containers (setting containersProxy); with --container only that for
the container.

URL may also be a host or host:port; port 80 counts as http, all else as https.`

func (g *global) routeCommand() *cobra.Command {
	var container string
	cmd := &cobra.Command{
		Use:   "route URL",
		Short: "Show which way a destination would take, and why",
		Long:  routeHelp,
		Example: `  portolan route https://registry-1.docker.io/v2/
  portolan route wiki.corp.example:443 --container web
  portolan route http://example.com --json | jq -r '.routes[0].ways[0]'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("want one URL, such as: portolan route https://example.com/")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			routes, err := g.client().Route(cmd.Context(), args[0], container)
			if err != nil {
				return err
			}
			if g.json {
				return g.printJSON(routes)
			}
			printRoutes(g.Out, routes)
			return nil
		},
	}
	cmd.Flags().StringVar(&container, "container", "", "the container that would go there, by its `NAME`")
	return cmd
}

// printRoutes writes the answer for people.
func printRoutes(w io.Writer, routes api.Routes) {
	for _, r := range routes.Routes {
		who := r.For
		if r.Container != "" {
			who = "container " + r.Container
		}
		fmt.Fprintf(w, "%s: %s\n  because: %s: %s\n", who, strings.Join(r.Ways, ", then "), r.Source, r.Rule)
		if r.For != "containers" || !r.Configured {
			continue
		}
		if r.Transparent {
			fmt.Fprintf(w, "  for every client: containersProxy.transparentPorts has port %d\n", routes.Port)
		} else {
			fmt.Fprintf(w, "  for clients that use http.docker.internal:3128, as HTTP_PROXY says; others go direct\n")
		}
	}
}
