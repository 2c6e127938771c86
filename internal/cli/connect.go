package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/client"
	"github.com/portolan-net/portolan/internal/profile"
)

// HostAccess is how programs of this host get to containers by their own
// addresses. A nil field is something that this system can't do.
type HostAccess struct {
	// Connect connects the host to the machine of a profile, which belongs to
	// the user uid, and returns when routes stand. It needs root.
	Connect func(ctx context.Context, p profile.Profile, uid int, offer api.ConnectOffer) (api.Connection, error)
	// Disconnect ends that; nothing is left when it returns.
	Disconnect func(p profile.Profile, uid int) error
	// Connector is the process that keeps the host connected. What it needs
	// comes through inherited descriptors.
	Connector func(ctx context.Context) error
	// Shell executes a command in place of this program, in the machine's
	// network, and returns only when that fails.
	Shell func(p profile.Profile, status api.Status, names api.Names, args []string) error
	// Enter is the second half of Shell for an ordinary user.
	Enter func(args []string) error
}

const connectHelp = `Gives this host routes to the machine's networks: from then on every container
answers at its own address, by ping, TCP and UDP, over IPv4 and IPv6, published
ports or not. It lasts until 'portolan disconnect' or 'portolan down', and
follows networks that come and go. Containers see the host as the gateway of their
network, and can open no connection to it this way; other computers reach nothing.

An interface and its routes are added to this host, which is root's to do: as
root for root's machine, and with sudo for your own. By default that is the
machine of the user who typed sudo, if it runs, and else root's; --user names
another one. Nothing else of the host changes, and nothing stays behind.

A network that overlaps one of the host's own routes is left out, by name.
Programs find containers by name, such as web.portolan.internal, once this
host's resolver knows 127.0.0.1:5399: docs/dns.md says how to tell it.
The setting portolan.connect limits this to published ports, or forbids it. When
this host is connected already, that is said, and no error.`

func (g *global) connectCommand() *cobra.Command {
	var owner string
	cmd := &cobra.Command{
		Use:   "connect",
		Short: "Reach containers by their own addresses from this host (sudo)",
		Long:  connectHelp,
		Example: `  sudo portolan connect
  ping $(docker inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' web)
  curl http://$(dig +short @127.0.0.1 -p 5399 web.portolan.internal)/
  portolan disconnect`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if g.Platform.Connect == nil {
				return errors.New("connect this host: it is not known how on this system")
			}
			p, uid, err := g.machineOf(owner)
			if err != nil {
				return err
			}
			return g.connect(cmd.Context(), p, uid)
		},
	}
	ownerFlag(cmd, &owner)
	return cmd
}

// connect connects the host to a machine, unless it is connected.
func (g *global) connect(ctx context.Context, p profile.Profile, uid int) error {
	daemon := client.New(p)
	offer, err := daemon.ConnectOffer(ctx)
	if err != nil {
		return err
	}
	status, err := daemon.Status(ctx)
	if err != nil {
		return err
	}
	said, connection := "connected already", status.Connection
	if connection == nil {
		made, err := g.Platform.Connect(ctx, p, uid, offer)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		said, connection = "connected", &made
	}
	for _, refused := range connection.Refused {
		g.warnf("not connected to %s", refused)
	}
	if g.json {
		return g.printJSON(connection)
	}
	g.printf("%s: %s\nend it with: %s\n", said, describeConnection(*connection), g.command("disconnect"))
	return nil
}

func ownerFlag(cmd *cobra.Command, owner *string) {
	cmd.Flags().StringVar(owner, "user", "", "whose machine: a user's `NAME` (default: who typed sudo, if that one's machine runs; else your own)")
}

func (g *global) disconnectCommand() *cobra.Command {
	var owner string
	cmd := &cobra.Command{
		Use:   "disconnect",
		Short: "End what connect began",
		Long: `Takes the interface and the routes of 'portolan connect' off this host. The
machine's user may do that without sudo. When the host is not connected there is
nothing to do, and that is no error.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if g.Platform.Disconnect == nil {
				return errors.New("disconnect this host: it is not known how on this system")
			}
			p, uid, err := g.machineOf(owner)
			if err != nil {
				return err
			}
			if err := g.Platform.Disconnect(p, uid); err != nil {
				return fmt.Errorf("disconnect: %w", err)
			}
			return nil
		},
	}
	ownerFlag(cmd, &owner)
	return cmd
}

// machineOf finds the profile that a command of root's means, and whose it is.
func (g *global) machineOf(owner string) (profile.Profile, int, error) {
	self := os.Geteuid()
	asked := owner != ""
	if !asked {
		owner = os.Getenv("SUDO_USER")
	}
	if self != 0 || owner == "" {
		if asked {
			return g.profile, self, usagef("--user is for root: type: sudo portolan ...")
		}
		return g.profile, self, nil
	}
	u, err := user.Lookup(owner)
	if err != nil {
		return g.profile, self, fmt.Errorf("find user %s: %w", owner, err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return g.profile, self, fmt.Errorf("find user %s: uid %s is no number", owner, u.Uid)
	}
	p, err := profile.OpenFor(g.profile.Name, u)
	if err != nil {
		return g.profile, self, err
	}
	if _, err := os.Stat(p.HelperSocket()); err != nil && !asked && errors.Is(err, fs.ErrNotExist) {
		return g.profile, self, nil
	}
	return p, uid, nil
}

// describeConnection is a connection in one line.
func describeConnection(c api.Connection) string {
	networks := make([]string, len(c.Networks))
	for i, network := range c.Networks {
		networks[i] = network.String()
	}
	return fmt.Sprintf("%s on %s, as %s and %s", strings.Join(networks, ", "), c.Interface, c.Address.V4, c.Address.V6)
}

// connectorCommand is the connector's process; connect starts it.
func (g *global) connectorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "connector", Short: "Keep this host connected (started by connect)",
		Hidden: true, Args: noArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil }, // knows no profile
		RunE: func(cmd *cobra.Command, _ []string) error {
			if g.Platform.Connector == nil {
				return errors.New("run the connector: there is none on this system")
			}
			return g.Platform.Connector(cmd.Context())
		},
	}
}

const shellHelp = `Runs a command of this host in the machine's network: it reaches every container
by its own address or name, and the internet as a container does. Without a
command it is $SHELL. No privilege is needed for one's own machine.

The command runs as you, with your files; only /etc/resolv.conf and /etc/hosts
are others: names of the internet and host.docker.internal are those of
containers, and containers that run now are NAME and NAME.portolan.internal. In an
ordinary user's machine, files of other users look as if they were nobody's, and
sudo does not work.

This host's own loopback is host.docker.internal there; localhost is the machine's.
The exit code is the command's, 127 when it does not exist.`

func (g *global) shellCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shell [-- COMMAND [ARG...]]",
		Short: "Run a program of this host in the machine's network",
		Long:  shellHelp,
		Example: `  portolan shell -- curl http://web/
  portolan shell -- psql -h db.portolan.internal -U postgres
  portolan shell -- firefox --new-instance http://web/
  portolan shell`,
		RunE: func(cmd *cobra.Command, args []string) error { return g.shell(cmd.Context(), args) },
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (g *global) shell(ctx context.Context, args []string) error {
	if g.Platform.Shell == nil {
		return errors.New("run a shell in the machine's network: it is not known how on this system")
	}
	if len(args) == 0 {
		args = []string{os.Getenv("SHELL")}
		if args[0] == "" {
			args[0] = "/bin/sh"
		}
	}
	if _, err := exec.LookPath(args[0]); err != nil {
		code := exitNotExecutable
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			code = exitNotFound
		}
		return exitError{code: code, err: fmt.Errorf("run %s: %w", args[0], err)}
	}
	status, err := g.client().Status(ctx)
	if err != nil {
		return err
	}
	names, err := g.client().Names(ctx)
	if err != nil {
		return err
	}
	return fmt.Errorf("run %s in the machine's network: %w", args[0], g.Platform.Shell(g.profile, status, names, args))
}

// enterCommand is the second half of shell; it is started by that.
func (g *global) enterCommand() *cobra.Command {
	return &cobra.Command{
		Use: "enter", Short: "Enter the machine's network (started by shell)",
		Hidden: true, DisableFlagParsing: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil }, // knows no profile
		RunE: func(_ *cobra.Command, args []string) error {
			if g.Platform.Enter == nil {
				return errors.New("enter the machine: it is not known how on this system")
			}
			return g.Platform.Enter(args)
		},
	}
}
