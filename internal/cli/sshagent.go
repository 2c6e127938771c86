package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/client"
	"github.com/portolan-net/portolan/internal/hostservice"
	"github.com/portolan-net/portolan/internal/settings"
)

const sshAgentHelp = `Shows where /run/host-services/ssh-auth.sock leads, by which containers use this
user's ssh-agent:

  docker run --mount type=bind,src=/run/host-services/ssh-auth.sock,target=/run/host-services/ssh-auth.sock \
    -e SSH_AUTH_SOCK=/run/host-services/ssh-auth.sock ...

For each connection the agent is looked for anew, so one that was started again
is found: at SSH_AUTH_SOCK as the last 'portolan up' or 'portolan ssh-agent use'
had it, then where desktops and systemd put agents. 'use' chooses another place,
which is the setting ` + settings.KeySSHAgent + `.`

const sshAgentUseHelp = `Chooses where the ssh-agent is: a path; auto for SSH_AUTH_SOCK of this shell and
the usual places; none to close it to containers. It counts from the next
connection on, and what answers there now is shown.`

func (g *global) sshAgentCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ssh-agent", Short: "Show and choose the ssh-agent that containers use", Long: sshAgentHelp,
		Example: "  portolan ssh-agent\n  portolan ssh-agent use \"$SSH_AUTH_SOCK\"\n  portolan ssh-agent use auto",
		Args:    noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			agent, err := g.client().SSHAgent(cmd.Context())
			if err != nil {
				return err
			}
			if g.json {
				return g.printJSON(agent)
			}
			g.printSSHAgent(agent)
			return nil
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use: "use PATH|auto|none", Short: "Choose the ssh-agent", Long: sshAgentUseHelp,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usagef("want the path of the agent's socket, auto or none, such as: portolan ssh-agent use \"$SSH_AUTH_SOCK\"")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := g.useSSHAgent(cmd.Context(), args[0]); err != nil || g.json {
				return err
			}
			agent, err := g.client().SSHAgent(cmd.Context())
			if errors.Is(err, client.ErrNotRunning) {
				return nil // the choice counts from the next start on
			}
			if err == nil {
				g.printSSHAgent(agent)
			}
			return err
		},
	})
	return cmd
}

func (g *global) useSSHAgent(ctx context.Context, path string) error {
	if path == "auto" {
		if err := g.hintSSHAgent(ctx); err != nil {
			return err
		}
		return g.changeSettings(ctx, restartFlags{}, func(s *settings.Store) (settings.Edit, error) { return s.Unset(settings.KeySSHAgent) })
	}
	if path != hostservice.NoAgent {
		absolute, err := filepath.Abs(path)
		if err != nil {
			return fmt.Errorf("find %s: %w", path, err)
		}
		info, err := os.Stat(absolute)
		if err != nil {
			return fmt.Errorf("use ssh-agent: %w", err)
		}
		if info.Mode()&os.ModeSocket == 0 {
			return fmt.Errorf("use ssh-agent: %s is not a socket; want what SSH_AUTH_SOCK says", absolute)
		}
		path = absolute
	}
	return g.changeSettings(ctx, restartFlags{}, func(s *settings.Store) (settings.Edit, error) { return s.Set(settings.KeySSHAgent, path) })
}

// hintSSHAgent tells the daemon, if one runs, of this shell's SSH_AUTH_SOCK.
func (g *global) hintSSHAgent(ctx context.Context) error {
	path := os.Getenv("SSH_AUTH_SOCK")
	if path == "" {
		return nil
	}
	if err := g.client().HintSSHAgent(ctx, path); err != nil && !errors.Is(err, client.ErrNotRunning) {
		return err
	}
	return nil
}

func (g *global) printSSHAgent(a api.SSHAgent) {
	g.printf("containers use %s\n", a.Socket)
	switch {
	case a.Closed:
		g.printf("closed by the setting %s; to open it: %s\n", settings.KeySSHAgent, g.command("ssh-agent use auto"))
		return
	case a.Path == "":
		g.printf("no agent answers; start one and type: %s\n", g.command("ssh-agent use \"$SSH_AUTH_SOCK\""))
	}
	for _, try := range a.Tried {
		switch {
		case try.Error != "":
			g.printf("  %s (%s): %s\n", try.Path, try.Source, try.Error)
		default:
			g.printf("  %s (%s): answers, keys: %d\n", try.Path, try.Source, a.Keys)
		}
	}
}
