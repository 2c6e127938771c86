package cli

import (
	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/doctor"
)

const doctorHelp = `Looks at everything that a machine needs: the kernel's features (by really using
them, in a scratch network namespace), programs, permissions, limits, the state
directory, the engine, and, while the machine runs, its daemon, its engine, DNS
and a real outbound connection.

Each finding is ok, warn or FAIL, with what to type. The exit code is 1 when
something fails.`

const doctorExample = `  portolan doctor
  portolan doctor --target registry.example.com:443   # where your images come from
  portolan doctor --json`

// defaultTarget is what nearly everybody needs to reach: Docker Hub.
const defaultTarget = "registry-1.docker.io:443"

func (g *global) doctorCommand() *cobra.Command {
	o := doctor.Options{Engine: "auto"}
	var kernel bool
	cmd := &cobra.Command{
		Use:     "doctor",
		Short:   "Find out what is wrong, and say what to type",
		Long:    doctorHelp,
		Example: doctorExample,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kernel {
				findings, err := doctor.Kernel()
				if err != nil {
					return err
				}
				return writeJSON(g.Out, findings, "")
			}
			o.Profile = g.profile
			o.Status = g.status
			o.EngineDirs = g.engineDirs()
			o.AgentDirs = g.agentDirs()
			o.ToolDirs = []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}
			o.LocateEngine = g.Platform.LocateEngine
			o.AsRoot = g.Platform.AsRoot
			o.ProbeOutbound = g.Platform.ProbeOutbound
			o.Up = g.command("up")
			if err := o.Validate(); err != nil {
				return usageError{err}
			}
			report := doctor.Run(cmd.Context(), o, func(f doctor.Finding) {
				if !g.json {
					g.printFinding(f)
				}
			})
			if g.json {
				if err := g.printJSON(report); err != nil {
					return err
				}
			}
			if !report.OK {
				return exitError{code: exitFailure}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&o.Engine, "engine", o.Engine, "the dockerd to look for: auto, bundled, or a `PATH`")
	cmd.Flags().StringVar(&o.Target, "target", defaultTarget, "the `HOST:PORT` that DNS and the outbound connection are tried with")
	cmd.Flags().BoolVar(&kernel, "kernel", false, "try only the kernel's features, in this user namespace, and print JSON")
	_ = cmd.Flags().MarkHidden("kernel") // errs only for a flag that does not exist
	return cmd
}

func (g *global) printFinding(f doctor.Finding) {
	result := string(f.Result)
	if f.Result == doctor.Fail {
		result = "FAIL"
	}
	g.printf("%-4s  %-22s %s\n", result, f.Check, f.Detail)
	if f.Fix != "" {
		g.printf("%30s-> %s\n", "", f.Fix)
	}
}
