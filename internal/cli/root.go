package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/portolan-net/portolan/internal/client"
	"github.com/portolan-net/portolan/internal/profile"
)

// global holds the flags that every command has, and what they lead to.
type global struct {
	*Program
	name    string
	json    bool
	profile profile.Profile
}

const rootHelp = `Portolan runs a stock Docker Engine in a machine (Linux namespaces) that has no
network of its own: one ordinary process on this host carries every connection
in and out. What leaves a container looks to the host, its VPN and its firewall
like traffic of that one process; what a container publishes appears on the
host's own addresses. Nothing on the host is configured: no bridge, no
iptables, no routes.

Environment:
  PORTOLAN_PROFILE      the profile when --profile is not given
  PORTOLAN_STATE_DIR    where all profiles keep images, volumes and logs
  PORTOLAN_RUNTIME_DIR  where all profiles keep their sockets
  PORTOLAN_CONFIG_DIR   where all profiles keep their settings

Exit codes: 0 success, 1 failure, 2 wrong usage; 'run' passes on the command's.`

const rootExample = `  portolan up                                   # start the machine
  docker --context portolan run -d -p 8080:80 nginx
  curl localhost:8080
  portolan down                                 # stop it; images and volumes stay`

func (p *Program) root() *cobra.Command {
	g := &global{Program: p}
	root := &cobra.Command{
		Use:               "portolan",
		Short:             "A Docker Engine whose whole network is one host process",
		Long:              rootHelp,
		Example:           rootExample,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              noSuchCommand,
		Version:           p.Version,

		SuggestionsMinimumDistance: 2,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE:          func(cmd *cobra.Command, _ []string) error { return g.open(cmd.Flag("profile")) },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&g.name, "profile", "", "the `NAME` of the machine to work on; each has its own engine (default $PORTOLAN_PROFILE, or \"default\")")
	flags.BoolVar(&g.json, "json", false, "print JSON for programs")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError{withFlagHint(cmd, err)} })
	root.SetVersionTemplate("portolan {{.Version}}\n")
	root.SetHelpCommand(helpCommand())
	root.AddCommand(g.upCommand(), g.downCommand(), g.statusCommand(), g.portsCommand(), g.dnsCommand(), g.routeCommand(), g.connectCommand(), g.disconnectCommand(), g.shellCommand(), g.envCommand(), g.logsCommand(),
		g.runCommand(), g.settingsCommand(), g.forwardCommand(), g.sshAgentCommand(), g.doctorCommand(), g.versionCommand(), g.serveCommand(), g.routerHelperCommand(), g.deputyCommand(), g.connectorCommand(), g.enterCommand())
	return root
}

// open finds the profile. A name that is no name is wrong usage; anything else
// that is wrong with the directories is a failure.
func (g *global) open(flag *pflag.Flag) error {
	if g.name == "" {
		if flag.Changed {
			return usagef("--profile is empty: want the name of a profile")
		}
		g.name = os.Getenv("PORTOLAN_PROFILE")
	}
	p, err := profile.Open(g.name)
	if err != nil {
		if _, other := profile.Open(profile.Default); other == nil {
			return usageError{err}
		}
		return err
	}
	g.profile = p
	return nil
}

func (g *global) client() *client.Client { return client.New(g.profile) }

// command is what has to be typed for another command on the same profile.
func (g *global) command(rest string) string {
	if g.profile.Name == profile.Default {
		return "portolan " + rest
	}
	return "portolan --profile " + g.profile.Name + " " + rest
}

// printf writes for people.
func (g *global) printf(format string, args ...any) { _, _ = fmt.Fprintf(g.Out, format, args...) }

// warnf writes to people what is not the command's result.
func (g *global) warnf(format string, args ...any) {
	_, _ = fmt.Fprintf(g.Err, "portolan: "+format+"\n", args...)
}

// printJSON writes v for programs.
func (g *global) printJSON(v any) error { return writeJSON(g.Out, v, "  ") }

func writeJSON(w io.Writer, v any, indent string) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// noArgs is cobra.NoArgs as a usage error.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q", args[0])
	}
	return nil
}

// noSuchCommand refuses what is no command, with a guess.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef("unknown command %q; did you mean %s?", args[0], strings.Join(near, " or "))
	}
	return usagef("unknown command %q", args[0])
}

// helpCommand is cobra's, but wrong usage is an error.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "help [COMMAND]",
		Short:             "Help about any command",
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil }, // knows no profile
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return usageError{err}
			}
			if err := noSuchCommand(about, rest); err != nil {
				return err
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// withFlagHint says what was probably meant, or what is wanted.
func withFlagHint(cmd *cobra.Command, err error) error {
	if what, parse, found := strings.Cut(err.Error(), ": strconv."); found {
		want := "a whole number"
		if strings.HasPrefix(parse, "ParseBool") {
			want = "true or false"
		}
		return fmt.Errorf("%s: want %s", what, want)
	}
	if what, _, found := strings.Cut(err.Error(), ": time: "); found {
		return fmt.Errorf("%s: want a duration, such as 90s or 3m", what)
	}
	typed, found := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !found {
		return err
	}
	best, distance := "", 3 // more than two slips is another word
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if d := slips(typed, f.Name); d < distance && !f.Hidden {
			best, distance = f.Name, d
		}
	})
	if best == "" {
		return err
	}
	return fmt.Errorf("%w; did you mean --%s?", err, best)
}

// slips is the Levenshtein distance.
func slips(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
