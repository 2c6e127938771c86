// Package doctor finds out whether a machine can run here and whether the one
// that runs works. Each check really does the thing that it is about, leaves
// nothing behind, and ends in one finding that says what to type. The package
// prints nothing and changes nothing; only the CLI uses it.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/profile"
)

// Result of a check.
type Result string

// The results. Warn is something that works less well than it could, or that
// could not be found out; only Fail makes a report not OK.
const (
	OK   Result = "ok"
	Warn Result = "warn"
	Fail Result = "fail"
)

// Finding is what one check found.
type Finding struct {
	Check  string `json:"check"`
	Result Result `json:"result"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to type or do, unless OK
}

// Report is all findings, in the order of the checks.
type Report struct {
	OK       bool      `json:"ok"`
	Findings []Finding `json:"findings"`
}

// Options says what to look at.
type Options struct {
	Profile    profile.Profile
	Engine     string   // auto, bundled or a path
	EngineDirs []string // where an engine that was built with Portolan may be
	AgentDirs  []string // where portolan-agent and portolan-shim may be, together
	ToolDirs   []string // where the engine finds programs besides PATH
	Target     string   // host:port, for DNS and the outbound connection
	Up         string   // what has to be typed to start the machine
	// Status asks the daemon; an error means that it does not run.
	Status func(ctx context.Context) (api.Status, error)
	// LocateEngine replaces the search for an engine; may be nil.
	LocateEngine func(ctx context.Context, engine string) (string, error)
	// AsRoot runs this program with args as root of a new user namespace, as an
	// ordinary user's machine does, and returns what it wrote; may be nil.
	AsRoot func(ctx context.Context, args ...string) ([]byte, error)
	// ProbeOutbound connects to a target from inside the machine; may be nil.
	ProbeOutbound func(ctx context.Context, p profile.Profile, target string) (string, error)
}

// Validate checks what a person typed.
func (o Options) Validate() error {
	if host, port, err := net.SplitHostPort(o.Target); err != nil || host == "" || port == "" {
		return fmt.Errorf("target %q: want HOST:PORT", o.Target)
	} else if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("target %q: want HOST:PORT, PORT from 1 to 65535", o.Target)
	}
	if o.Engine != "auto" && o.Engine != "bundled" && !filepath.IsAbs(o.Engine) {
		return fmt.Errorf("engine %q: want auto, bundled or an absolute path", o.Engine)
	}
	return nil
}

// checkTime bounds one check: a resolver that does not answer is a finding.
const checkTime = 10 * time.Second

// check is one look at one thing. It may return several findings where one
// effort answers several questions.
type check func(ctx context.Context, o Options) []Finding

// Run makes all checks, one after the other, and calls each as findings come.
func Run(ctx context.Context, o Options, each func(Finding)) Report {
	report := Report{OK: true, Findings: []Finding{}}
	for _, look := range append(systemChecks(), engineCheck, agentCheck, pluginChecks, machineChecks, resolverCheck, outboundCheck) {
		checkCtx, cancel := context.WithTimeout(ctx, checkTime)
		for _, finding := range look(checkCtx, o) {
			report.Findings = append(report.Findings, finding)
			report.OK = report.OK && finding.Result != Fail
			each(finding)
		}
		cancel()
	}
	return report
}

func ok(name, format string, args ...any) Finding {
	return Finding{Check: name, Result: OK, Detail: fmt.Sprintf(format, args...)}
}

// bad is a finding that is not ok.
func bad(result Result, name string, err error, fix string) Finding {
	return Finding{Check: name, Result: result, Detail: err.Error(), Fix: fix}
}

// verdict is ok with detail, or a failure.
func verdict(name, detail string, err error, fix string) Finding {
	if err != nil {
		return bad(Fail, name, err, fix)
	}
	return ok(name, "%s", detail)
}

// errUnknown is for what can't be asked without a machine.
var errUnknown = errors.New("not checked: the machine does not run")
