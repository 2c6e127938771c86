package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/dockercontext"
)

const envHelp = `Prints what makes a shell's docker, compose, Testcontainers and every other
Docker client use the machine: DOCKER_HOST, and a PATH with the docker that was
built with Portolan where no other docker is found.

The syntax is that of $SHELL unless --shell names another. The lines are printed
whether the machine runs or not.`

const envExample = `  eval "$(portolan env)"                  # bash, zsh, sh
  portolan env --shell fish | source`

func (g *global) envCommand() *cobra.Command {
	var shell string
	cmd := &cobra.Command{
		Use:     "env",
		Short:   "Print the environment for docker clients",
		Long:    envHelp,
		Example: envExample,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, err := shellSyntax(shell)
			if err != nil {
				return err
			}
			engine := g.engineDirWithDocker()
			if _, err := g.status(cmd.Context()); err != nil {
				g.warnf("%v", err)
			}
			if g.json {
				vars := map[string]string{"DOCKER_HOST": g.dockerHost()}
				if engine != "" {
					vars["PATH"] = engine + string(os.PathListSeparator) + os.Getenv("PATH")
				}
				return g.printJSON(vars)
			}
			g.printf("%s", write("DOCKER_HOST", g.dockerHost(), false))
			if engine != "" {
				g.printf("%s", write("PATH", engine, true))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&shell, "shell", "", "the syntax: bash, zsh, sh or fish (default: of $SHELL)")
	return cmd
}

// assignment writes one line that exports a variable; a list is prepended to.
type assignment func(name, value string, prepend bool) string

// shellSyntax returns the syntax of a shell. A $SHELL that it does not know is
// taken for a POSIX shell; a --shell that it does not know is an error.
func shellSyntax(shell string) (assignment, error) {
	name := shell
	if name == "" {
		name = filepath.Base(os.Getenv("SHELL"))
	}
	switch name {
	case "fish":
		return fishAssignment, nil
	case "bash", "zsh", "sh", "dash", "ksh":
		return posixAssignment, nil
	}
	if shell == "" {
		return posixAssignment, nil
	}
	return nil, usagef("--shell %q: want bash, zsh, sh or fish", shell)
}

func posixAssignment(name, value string, prepend bool) string {
	tail := ""
	if prepend {
		tail = `:"$` + name + `"`
	}
	return "export " + name + "=" + posixQuote(value) + tail + "\n"
}

func fishAssignment(name, value string, prepend bool) string {
	tail := ""
	if prepend {
		tail = " $" + name
	}
	return "set -gx " + name + " " + fishQuote(value) + tail + ";\n"
}

// plain says whether every shell takes value as it is.
func plain(value string) bool {
	return value != "" && strings.IndexFunc(value, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/:._-+,@", r))
	}) < 0
}

func posixQuote(value string) string {
	if plain(value) {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}

func fishQuote(value string) string {
	if plain(value) {
		return value
	}
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(value) + "'"
}

// engineDirWithDocker is the folder of the docker CLI that was built with
// Portolan, "" where another docker is on PATH or ours was not built.
func (g *global) engineDirWithDocker() string {
	if _, err := exec.LookPath("docker"); err == nil {
		return ""
	}
	for _, dir := range g.engineDirs() {
		if _, err := exec.LookPath(filepath.Join(dir, "docker")); err == nil {
			return dir
		}
	}
	return ""
}

// linkPlugins lets every docker find compose and buildx as they were built with
// Portolan, where it has none: PATH is not where docker looks for its plugins.
func (g *global) linkPlugins(dir dockercontext.Dir) error {
	for _, engine := range g.engineDirs() {
		if err := dir.LinkPlugins(filepath.Join(engine, "cli-plugins")); err != nil {
			return err
		}
	}
	return nil
}

func (g *global) unlinkPlugins(dir dockercontext.Dir) error {
	var errs []error
	for _, engine := range g.engineDirs() {
		errs = append(errs, dir.UnlinkPlugins(filepath.Join(engine, "cli-plugins")))
	}
	return errors.Join(errs...)
}

// agentDirs are the folders where `make build` and `make install` put the agent,
// as seen from this program.
func (g *global) agentDirs() []string {
	here := filepath.Dir(g.Executable)
	return []string{here, filepath.Join(filepath.Dir(here), "lib", "portolan")}
}

// engineDirs are the folders where `make engine` and `make install` put the
// engine, as seen from this program.
func (g *global) engineDirs() []string {
	here := filepath.Dir(g.Executable)
	return []string{filepath.Join(here, "engine"), filepath.Join(filepath.Dir(here), "lib", "portolan", "engine")}
}
