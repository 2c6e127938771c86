package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/cli/launch"
	"github.com/portolan-net/portolan/internal/client"
	"github.com/portolan-net/portolan/internal/engine"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/settings"
)

const settingsHelp = `Shows and changes what can be chosen for a profile. The names and values are
Docker Desktop's where it has them. An administrator's file may lock a setting,
or change its default; 'explain' shows every source and which one wins.

What can count at once does. For the rest the engine restarts, and for another
subnet the machine's network: containers go on (unless the engine's own option
live-restore is off), and the latter ends their open connections. A command that
leads to that asks first; --yes answers, --later leaves it to 'portolan settings
apply'.`

const settingsExample = `  portolan settings list
  portolan settings set defaultNetworkingMode ipv4only --yes
  portolan settings set linuxVM.dockerDaemonOptions '{"log-driver": "local"}'
  portolan settings set linuxVM.dockerDaemonOptions.debug true
  portolan settings set proxy.exclude localhost,.example.com
  portolan settings explain portBindingBehavior
  portolan settings validate admin-settings.json`

func (g *global) settingsCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "settings", Short: "Show and change settings", Long: settingsHelp, Example: settingsExample,
		Args: noSuchCommand, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var when restartFlags
	command := func(use, short string, args int, run func(ctx context.Context, args []string) error) *cobra.Command {
		cmd := &cobra.Command{
			Use: use, Short: short, Example: settingsExample, Args: exactly(use, args),
			RunE: func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), args) },
		}
		root.AddCommand(cmd)
		return cmd
	}
	command("list", "Show all settings in force", 0, func(context.Context, []string) error { return g.listSettings() })
	command("get KEY", "Show the value in force", 1, func(_ context.Context, args []string) error { return g.getSetting(args[0]) })
	command("explain KEY", "Show every source of a value", 1, func(_ context.Context, args []string) error { return g.explainSetting(args[0]) })
	command("validate FILE", "Check a settings file or an admin file", 1, func(_ context.Context, args []string) error { return g.validateSettings(args[0]) })
	changing := []*cobra.Command{
		command("set KEY VALUE", "Choose a value", 2, func(ctx context.Context, args []string) error {
			return g.changeSettings(ctx, when, func(s *settings.Store) (settings.Edit, error) { return s.Set(args[0], args[1]) })
		}),
		command("unset KEY", "Go back to the default", 1, func(ctx context.Context, args []string) error {
			return g.changeSettings(ctx, when, func(s *settings.Store) (settings.Edit, error) { return s.Unset(args[0]) })
		}),
		command("edit", "Open the settings file in $VISUAL or $EDITOR", 0, func(ctx context.Context, _ []string) error {
			return g.changeSettings(ctx, when, func(s *settings.Store) (settings.Edit, error) { return g.editSettings(ctx, s) })
		}),
		command("apply", "Restart what waits for a restart", 0, func(ctx context.Context, _ []string) error {
			return g.applySettings(ctx, when)
		}),
	}
	for _, cmd := range changing {
		cmd.Flags().BoolVarP(&when.yes, "yes", "y", false, "restart what has to restart, without a question")
		cmd.Flags().BoolVar(&when.later, "later", false, "restart nothing now")
		cmd.PreRunE = func(*cobra.Command, []string) error {
			if when.yes && when.later {
				return usagef("--yes and --later exclude each other")
			}
			return nil
		}
	}
	return root
}

// restartFlags say what becomes of changes that need a restart.
type restartFlags struct{ yes, later bool }

func exactly(use string, n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("want: portolan settings %s", use)
		}
		return nil
	}
}

// openSettings reads the profile's settings and writes nothing.
func (g *global) openSettings(repair bool) (*settings.Store, error) {
	files := settings.Files{
		User: g.profile.SettingsFile(), Admin: g.AdminFiles, Good: g.profile.StateDir,
		CheckEngine: engine.CheckOptions, Repair: repair,
	}
	if files.Admin == nil {
		files.Admin = settings.AdminFiles()
	} else {
		files.Owner = uint32(os.Getuid()) // a test's, whoever runs it
	}
	s, err := settings.Open(files)
	if bad, ok := errors.AsType[*settings.FileError](err); ok && bad.Path == files.User {
		return nil, fmt.Errorf("%w; correct the file, or type: %s", err, g.command("settings edit"))
	}
	return s, err
}

// snapshot is openSettings for the commands that show something.
func (g *global) snapshot() (*settings.Snapshot, error) {
	s, err := g.openSettings(false)
	if err != nil {
		return nil, err
	}
	snapshot := s.Snapshot().Shown()
	for _, problem := range snapshot.Problems {
		g.warnf("%s", problem)
	}
	return snapshot, nil
}

func (g *global) listSettings() error {
	s, err := g.snapshot()
	if err != nil {
		return err
	}
	if g.json {
		return g.printJSON(struct {
			Settings []settings.Setting `json:"settings"`
			Warnings []string           `json:"warnings,omitempty"`
			Problems []string           `json:"problems,omitempty"`
		}{s.Settings, s.Warnings, s.Problems})
	}
	for _, warning := range s.Warnings {
		g.warnf("%s", warning)
	}
	w := tabwriter.NewWriter(g.Out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "KEY\tVALUE\tFROM")
	for _, setting := range s.Settings {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", setting.Name, shown(setting), from(setting))
	}
	return w.Flush()
}

// shown is a value on one line.
func shown(s settings.Setting) string {
	return strings.Join(strings.Fields(shownText(s.Value)), " ")
}

// shownText is a value with something to see where it is empty.
func shownText(v settings.Value) string {
	if text := v.Text(); text != "" {
		return text
	}
	return `""`
}

func from(s settings.Setting) string {
	switch {
	case s.Locked:
		return "LOCKED by " + s.Winner().File
	case s.Note != "":
		return s.Note
	}
	return string(s.Winner().Origin)
}

func (g *global) getSetting(name string) error {
	s, err := g.snapshot()
	if err != nil {
		return err
	}
	setting, ok := s.Get(name)
	switch {
	case ok && g.json:
		return g.printJSON(setting)
	case ok:
		g.printf("%s\n", setting.Value.Text())
		return nil
	}
	if option, ok := s.Option(name); ok {
		if g.json {
			return g.printJSON(option)
		}
		g.printf("%s\n", option.Text())
		return nil
	}
	group := map[string]settings.Value{}
	for _, setting := range s.Settings {
		if rest, inGroup := strings.CutPrefix(setting.Name, name+"."); inGroup {
			group[rest] = setting.Value
		}
	}
	if len(group) == 0 {
		return usageError{&settings.NoKeyError{Name: name}}
	}
	return g.printJSON(group)
}

func (g *global) explainSetting(name string) error {
	s, err := g.snapshot()
	if err != nil {
		return err
	}
	if setting, ok := s.Get(name); ok {
		if g.json {
			return g.printJSON(setting)
		}
		g.printExplanation(setting)
		return nil
	}
	var group []settings.Setting
	for _, setting := range s.Settings {
		if strings.HasPrefix(setting.Name, name+".") {
			group = append(group, setting)
		}
	}
	if len(group) == 0 {
		return usageError{&settings.NoKeyError{Name: name}}
	}
	if g.json {
		return g.printJSON(group)
	}
	for i, setting := range group {
		if i > 0 {
			g.printf("\n")
		}
		g.printExplanation(setting)
	}
	return nil
}

func (g *global) printExplanation(setting settings.Setting) {
	g.printf("%s: %s\n\n%s\n", setting.Name, shown(setting), setting.Help)
	if setting.Values != nil {
		g.printf("values: %s\n", strings.Join(setting.Values, ", "))
	}
	g.printf("a change counts: %s\n\n", setting.Applies)
	for i, source := range setting.Sources {
		mark := " "
		if i == len(setting.Sources)-1 {
			mark = "*"
		}
		g.printf("%s %s: %s\n", mark, source, shownText(source.Value))
	}
	if setting.Locked {
		g.printf("locked: only who can write %s can change it\n", setting.Winner().File)
	}
	if setting.Note != "" {
		g.printf("note: %s\n", setting.Note)
	}
}

func (g *global) validateSettings(path string) error {
	warnings, err := settings.Validate(path, engine.CheckOptions)
	if g.json {
		result := struct {
			File     string   `json:"file"`
			Valid    bool     `json:"valid"`
			Error    string   `json:"error,omitempty"`
			Warnings []string `json:"warnings,omitempty"`
		}{File: path, Valid: err == nil, Warnings: warnings}
		if err != nil {
			result.Error = err.Error()
		}
		return errors.Join(g.printJSON(result), silent(err))
	}
	for _, warning := range warnings {
		g.warnf("%s", warning)
	}
	if err != nil {
		return err
	}
	g.printf("%s is valid\n", path)
	return nil
}

// silent ends the program with a failure that has been told already.
func silent(err error) error {
	if err == nil {
		return nil
	}
	return exitError{code: exitFailure}
}

// settingsLockWait covers another command that writes the same file.
const settingsLockWait = 5 * time.Second

// changeSettings writes what edit prepares, and lets the daemon apply it.
func (g *global) changeSettings(ctx context.Context, when restartFlags, edit func(*settings.Store) (settings.Edit, error)) error {
	if err := os.MkdirAll(g.profile.ConfigDir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	lockCtx, cancel := context.WithTimeout(ctx, settingsLockWait)
	defer cancel()
	lock, err := launch.Wait(lockCtx, filepath.Join(g.profile.ConfigDir, "lock"))
	if err != nil {
		return fmt.Errorf("change settings: %w", err)
	}
	defer lock.RemoveFile()
	store, err := g.openSettings(true)
	if err != nil {
		return err
	}
	change, err := edit(store)
	if _, unknown := errors.AsType[*settings.NoKeyError](err); unknown {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	if err := g.canBeDone(ctx, store, change); err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	restart, err := g.mayRestart(ctx, when, change)
	if err != nil {
		return err
	}
	before, err := store.UserText()
	if err != nil {
		return err
	}
	if err := store.Write(change); err != nil {
		return err
	}
	applied, err := g.client().ApplySettings(ctx, restart)
	if err != nil && !errors.Is(err, client.ErrNotRunning) {
		if undone := store.Write(settings.Edit{Text: before}); undone != nil {
			return fmt.Errorf("%w; the settings file keeps the change: %w", err, undone)
		}
		return fmt.Errorf("%w; the settings file is as it was before", err)
	}
	return g.printChanges(change.Shown(), applied)
}

// canBeDone asks those who would have to do what a change brings, before anything
// is written: the daemon, or the dockerd of the machine to come.
func (g *global) canBeDone(ctx context.Context, store *settings.Store, change settings.Edit) error {
	if !slices.ContainsFunc(change.Changes, func(c settings.Change) bool { return c.Key.Applies.Restarts() }) {
		return nil
	}
	err := g.client().CheckSettings(ctx, change.Text)
	if !errors.Is(err, client.ErrNotRunning) {
		return err
	}
	v, err := store.Preview(change.Text)
	if err != nil || len(v.Engine) == 0 {
		return err
	}
	for _, dir := range g.engineDirs() {
		if found, err := engine.Find(ctx, "auto", dir); err == nil {
			if err := engine.TryOptions(ctx, found, v.Engine); err != nil {
				return fmt.Errorf("%s: %w", settings.KeyEngine, err)
			}
			break
		}
	}
	return nil
}

// mayRestart asks when something has to restart.
func (g *global) mayRestart(ctx context.Context, when restartFlags, change settings.Edit) (bool, error) {
	status, err := g.status(ctx)
	var keys []string
	what, ending := "the engine", "go on unless live-restore is off"
	for _, c := range change.Changes {
		if c.Before == c.After && isOn(status.Link, c.After) {
			continue
		}
		if c.Key.Applies.Restarts() {
			keys = append(keys, c.Key.Name)
		}
		if c.Key.Applies == settings.Network {
			what, ending = "the network and the engine", ending+", but lose their open connections"
		}
	}
	if len(keys) == 0 || err != nil || when.yes || when.later {
		return when.yes && len(keys) > 0, nil // without a daemon there is nothing to restart
	}
	return g.ask(fmt.Sprintf("%s: %s of %s must be restarted; %d containers run, and %s. Do that now?",
		strings.Join(keys, ", "), what, g.profile.ContextName(), status.Engine.Containers, ending))
}

// isOn reports whether a subnet is one of the link's already.
func isOn(link portolan.Link, subnet settings.Value) bool {
	return subnet.Text() == link.V4.String() || subnet.Text() == link.V6.String()
}

// ask puts a question to a person.
func (g *global) ask(question string) (bool, error) {
	if !isTerminal(g.In) {
		return false, fmt.Errorf("%s Nothing was changed: say --yes or --later", question)
	}
	g.printf("%s [y/N] ", question)
	answer, err := bufio.NewReader(g.In).ReadString('\n')
	if err != nil {
		return false, fmt.Errorf("read answer: %w", err)
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}

func (g *global) printChanges(change settings.Edit, applied api.Applied) error {
	if g.json {
		if change.Changes == nil {
			change.Changes = []settings.Change{}
		}
		return g.printJSON(struct {
			Changes  []settings.Change `json:"changes"`
			Warnings []string          `json:"warnings,omitempty"`
			api.Applied
		}{change.Changes, change.Warnings, applied})
	}
	for _, warning := range change.Warnings {
		g.warnf("%s", warning)
	}
	for _, c := range change.Changes {
		if c.Before == c.After {
			g.printf("%s: %s, from: %s\n", c.Key.Name, shownText(c.After), c.From)
			continue
		}
		g.printf("%s: %s -> %s\n", c.Key.Name, shownText(c.Before), shownText(c.After))
	}
	if len(change.Changes) == 0 {
		g.printf("no setting changes\n")
	}
	g.printApplied(applied)
	return nil
}

func (g *global) printApplied(applied api.Applied) {
	switch {
	case applied.Moved:
		g.printf("the machine's network has moved; the engine has restarted\n")
	case applied.Restarted:
		g.printf("the engine has restarted\n")
	}
	for _, pending := range applied.Pending {
		g.printf("pending: %s\n", pending)
	}
}

// applySettings restarts what waits for it.
func (g *global) applySettings(ctx context.Context, when restartFlags) error {
	status, err := g.status(ctx)
	if err != nil {
		return err
	}
	restart := when.yes
	if !when.yes && !when.later && len(status.Pending) > 0 {
		if restart, err = g.ask(fmt.Sprintf("What is pending restarts the engine of %s; %d containers run, and go on unless live-restore is off. Another subnet ends their open connections. Do that now?",
			g.profile.ContextName(), status.Engine.Containers)); err != nil {
			return err
		}
	}
	applied, err := g.client().ApplySettings(ctx, restart)
	if err != nil {
		return err
	}
	if g.json {
		return g.printJSON(applied)
	}
	g.printApplied(applied)
	return nil
}

// editSettings lets the user's editor work on a copy.
func (g *global) editSettings(ctx context.Context, s *settings.Store) (settings.Edit, error) {
	text, err := s.UserText()
	if err != nil {
		return settings.Edit{}, err
	}
	dir, err := os.MkdirTemp("", "portolan-settings")
	if err != nil {
		return settings.Edit{}, err
	}
	path := filepath.Join(dir, "settings.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return settings.Edit{}, err
	}
	words := strings.Fields(editor())
	cmd := exec.CommandContext(ctx, words[0], append(words[1:], path)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = g.In, g.Out, g.Err
	if err := cmd.Run(); err != nil {
		return settings.Edit{}, errors.Join(fmt.Errorf("run editor %s: %w; nothing was changed", words[0], err), os.RemoveAll(dir))
	}
	if text, err = os.ReadFile(path); err != nil {
		return settings.Edit{}, err
	}
	edit, err := s.Check(text)
	if err != nil {
		return settings.Edit{}, fmt.Errorf("%w; nothing was changed, your text is in %s", err, path)
	}
	return edit, os.RemoveAll(dir)
}

func editor() string {
	for _, name := range []string{"VISUAL", "EDITOR"} {
		if command := os.Getenv(name); strings.TrimSpace(command) != "" {
			return command
		}
	}
	return "vi"
}
