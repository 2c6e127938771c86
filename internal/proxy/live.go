package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/proxy/entry"
	"github.com/portolan-net/portolan/internal/system"
)

// Mode says where a proxy comes from.
type Mode string

// The modes.
const (
	ModeSystem Mode = "system"       // what the host's user has set up
	ModeManual Mode = "manual"       // what the choice names
	ModeNone   Mode = "none"         // nowhere
	ModeSame   Mode = "same-as-host" // the engine's, for containers
)

// Choice is what the settings say about the engine or about containers. Names of
// settings begin with Group.
type Choice struct {
	Group       string
	Mode        Mode
	HTTP, HTTPS string
	Exclude     []string
	PAC         string // URL or path of a script
	EmbeddedPAC string // a script; goes before PAC
	Closed      bool   // without any proxy, what is not excluded is blocked
}

// Choices are all settings about proxies.
type Choices struct {
	Engine, Containers Choice
	User               string // who logs in where a URL names nobody
}

// Live keeps a Source up to date with the settings, with what the host says, and
// with the PAC scripts that these name.
//
// # Theory of operation
//
// Choose and SetHost note what is new, make two Configs of it, compile them, give
// the policies to the Source if they differ, and wake Run, which loads the scripts
// that the Configs name (pac.go) and does the same again. A script that is not
// loaded yet, or can't be, denies; one that can't be loaded again stays. What is
// wrong is kept for Problems.
type Live struct {
	Source *Source
	Host   Host
	Load   Loader
	Log    *slog.Logger

	wake chan struct{}

	mu       sync.Mutex // guards what follows
	choices  Choices
	system   system.Proxies
	password string
	problems []string
	scripts  scripts
	before   [2]Config
	begun    bool // before is valid
}

// NewLive returns a Live that says nothing yet: its Source has no policies.
func NewLive(source *Source, host Host, load Loader, log *slog.Logger) *Live {
	return &Live{Source: source, Host: host, Load: load, Log: log, wake: make(chan struct{}, 1), scripts: scripts{}}
}

// Choose takes the settings. Scripts are loaded again, whether these are others
// than before or not.
func (l *Live) Choose(c Choices) {
	l.mu.Lock()
	l.choices = c
	for _, one := range l.scripts {
		one.due = time.Time{}
	}
	l.applyLocked()
	l.mu.Unlock()
	l.poke()
}

// SetHost takes what the host says, and the password that a command has given.
func (l *Live) SetHost(p system.Proxies, password string) {
	l.mu.Lock()
	l.system, l.password = p, password
	l.applyLocked()
	l.mu.Unlock()
	l.poke()
}

func (l *Live) poke() {
	select {
	case l.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// Problems are what somebody should know: values that are not used, scripts that
// can't be loaded or run.
func (l *Live) Problems() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.problems)
}

// Run keeps the Source up to date until ctx ends.
func (l *Live) Run(ctx context.Context) error {
	files := newFileWatch(l.Log)
	defer files.close()
	for {
		next := l.load(ctx, files)
		later := time.NewTimer(next)
		select {
		case <-ctx.Done():
			later.Stop()
			return nil
		case <-l.wake:
		case <-later.C:
		case <-files.changed():
		}
		later.Stop()
	}
}

// applyLocked compiles what is known now.
func (l *Live) applyLocked() {
	l.problems = nil
	l.scripts.unneeded()
	engine := l.config(l.choices.Engine)
	containers := engine
	if c := l.choices.Containers; c.Mode != ModeSame {
		containers = l.config(c)
	} else {
		containers.Exclude = append(slices.Clone(engine.Exclude), l.own(c)...)
	}
	if l.choices.Containers.Closed && containers.HTTP == "" && containers.HTTPS == "" && containers.Script == nil {
		containers.Closed, containers.ClosedSource = true, "setting "+l.choices.Containers.Group+".transparentPorts"
	}
	for _, s := range l.scripts {
		if s.needed && s.problem != nil {
			l.problem(s.problem.Error())
		}
	}
	slices.Sort(l.problems)
	l.problems = slices.Compact(l.problems)
	next := [2]Config{engine, containers}
	if l.begun && sameConfig(l.before[0], engine) && sameConfig(l.before[1], containers) {
		return
	}
	l.begun, l.before = true, next
	l.Source.Set(l.compile(engine), l.compile(containers))
	for _, p := range l.problems {
		l.Log.Warn("proxy settings", "problem", p)
	}
}

func (l *Live) problem(text string) { l.problems = append(l.problems, text) }

// compile is Compile; what can't be compiled is closed, since somebody wanted
// something else than the direct way.
func (l *Live) compile(c Config) *Policy {
	p, err := Compile(c)
	if err == nil {
		return p
	}
	l.problem(err.Error() + "; until this is corrected nothing is reached")
	return &Policy{closed: true, closedSource: err.Error()}
}

func sameConfig(a, b Config) bool {
	if a.Script != b.Script {
		return false
	}
	a.Script, b.Script = nil, nil
	return reflect.DeepEqual(a, b)
}

// own are a choice's own exclusions, which count in every mode.
func (l *Live) own(c Choice) []Exclude {
	return l.usable(Exclude{Source: "setting " + c.Group + ".exclude", Entries: c.Exclude})
}

// config reads one choice.
func (l *Live) config(c Choice) Config {
	setting := func(part string) string { return "setting " + c.Group + "." + part }
	cfg := Config{User: l.choices.User, Password: l.password, Exclude: l.own(c)}
	switch c.Mode {
	case ModeManual:
		cfg.HTTP, cfg.HTTPSource = c.HTTP, setting("http")
		cfg.HTTPS, cfg.HTTPSSource = c.HTTPS, setting("https")
		if c.EmbeddedPAC != "" {
			cfg.Script = l.scripts.embedded(setting("embeddedPac"), c.EmbeddedPAC, l.Host)
		} else if c.PAC != "" {
			cfg.Script = l.scripts.get(c.PAC)
		}
	case ModeSystem:
		l.fromHost(&cfg)
	case ModeNone, ModeSame:
	}
	return cfg
}

// fromHost adds what the host says; what is wrong there is left out.
func (l *Live) fromHost(cfg *Config) {
	s := l.system
	cfg.HTTPSource, cfg.HTTPSSource = s.Source+" "+s.Names.HTTP, s.Source+" "+s.Names.HTTPS
	cfg.HTTP, cfg.HTTPS = l.usableURL(s.HTTP, cfg.HTTPSource), l.usableURL(s.HTTPS, cfg.HTTPSSource)
	cfg.Exclude = append(cfg.Exclude, l.usable(Exclude{Source: s.Source + " " + s.Names.Exclude, Entries: s.Exclude})...)
	if s.PAC == "" {
		return
	}
	if _, err := entry.ParsePAC(s.PAC); err != nil {
		l.problem(fmt.Sprintf("%s %s: %v; it is not used", s.Source, s.Names.PAC, err))
		return
	}
	cfg.Script = l.scripts.get(s.PAC)
}

func (l *Live) usableURL(text, source string) string {
	if text == "" {
		return ""
	}
	if _, err := entry.ParseProxy(text); err != nil {
		l.problem(fmt.Sprintf("%s: %v; it is not used", source, err))
		return ""
	}
	return text
}

// usable leaves out entries that are wrong.
func (l *Live) usable(e Exclude) []Exclude {
	good := Exclude{Source: e.Source}
	for _, text := range e.Entries {
		if _, err := entry.ParseExclusions([]string{text}); err != nil {
			l.problem(fmt.Sprintf("%s: %v; it is not used", e.Source, err))
			continue
		}
		good.Entries = append(good.Entries, text)
	}
	if good.Entries == nil {
		return nil
	}
	return []Exclude{good}
}
