package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/portolan-net/portolan/internal/api"
)

// engineCheck says which engine a machine would use.
func engineCheck(ctx context.Context, o Options) []Finding {
	locate := o.LocateEngine
	if locate == nil {
		locate = o.search
	}
	where, err := locate(ctx, o.Engine)
	return []Finding{verdict("engine", where, err, "make engine   (in Portolan's source), or install dockerd 28 or newer")}
}

// search is a plain look for programs; it does not ask for their versions.
func (o Options) search(_ context.Context, engine string) (string, error) {
	var candidates []string
	if engine == "auto" || engine == "bundled" {
		for _, dir := range o.EngineDirs {
			candidates = append(candidates, filepath.Join(dir, "dockerd"))
		}
	} else {
		candidates = []string{engine}
	}
	if engine == "auto" {
		candidates = append([]string{"dockerd"}, candidates...)
	}
	for _, candidate := range candidates {
		if path, err := exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no dockerd found; looked at %v", candidates)
}

// agentCheck looks for what runs in the machine. The agent finds the shim beside
// itself.
func agentCheck(_ context.Context, o Options) []Finding {
	const name, fix = "agent", "make build   (in Portolan's source), or install Portolan again"
	for _, dir := range o.AgentDirs {
		agent := filepath.Join(dir, "portolan-agent")
		if _, err := exec.LookPath(agent); err != nil {
			continue
		}
		_, err := exec.LookPath(filepath.Join(dir, "portolan-shim"))
		return []Finding{verdict(name, agent, err, fix)}
	}
	return []Finding{bad(Fail, name, fmt.Errorf("no portolan-agent in %s", strings.Join(o.AgentDirs, " or ")), fix)}
}

// pluginChecks are about what people take for a part of docker.
func pluginChecks(ctx context.Context, o Options) []Finding {
	return []Finding{o.plugin(ctx, "buildx"), o.plugin(ctx, "compose")}
}

func (o Options) plugin(ctx context.Context, plugin string) Finding {
	name := "docker " + plugin
	if exec.CommandContext(ctx, "docker", plugin, "version").Run() == nil {
		return ok(name, "docker has it")
	}
	for _, dir := range o.EngineDirs {
		built := filepath.Join(dir, "cli-plugins", "docker-"+plugin)
		if _, err := exec.LookPath(built); err == nil {
			return ok(name, "%s, for docker while the machine runs", built)
		}
	}
	return bad(Warn, name, errors.New("docker has none, and none was built with Portolan"),
		"make cli   (in Portolan's source), or install docker-"+plugin+"-plugin")
}

// machineChecks are about the machine that runs.
func machineChecks(ctx context.Context, o Options) []Finding {
	status, err := o.Status(ctx)
	if err != nil {
		what, _, _ := strings.Cut(err.Error(), ": start it with") // the fix says that
		return []Finding{
			bad(Warn, "machine", errors.New(what), o.Up),
			bad(Warn, "engine API", errUnknown, o.Up),
		}
	}
	machine := ok("machine", "%s, daemon pid %d", status.State, status.Daemon.PID)
	if status.State != api.Running {
		machine.Result, machine.Fix = Warn, "portolan status; portolan logs"
	}
	findings := []Finding{machine}
	for _, problem := range status.Problems {
		findings = append(findings, bad(Warn, "machine", errors.New(problem), "portolan logs"))
	}
	version, err := o.ping(ctx)
	return append(findings, verdict("engine API", "answers at "+o.Profile.DockerSocket()+", "+version, err, "portolan logs --source engine"))
}

// ping asks the engine through the socket that docker clients use.
func (o Options) ping(ctx context.Context) (string, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", o.Profile.DockerSocket())
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", nil)
	if err != nil {
		return "", err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("ask the engine: %w", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("ask the engine: %s", resp.Status)
	}
	return "API " + resp.Header.Get("Api-Version"), nil
}

// resolverCheck asks the host's resolver, which the machine's resolver
// forwards to.
func resolverCheck(ctx context.Context, o Options) []Finding {
	const name, fix = "DNS", "look at /etc/resolv.conf; another name: portolan doctor --target HOST:PORT"
	host, _, _ := net.SplitHostPort(o.Target) // Validate has seen it
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	var dnsErr *net.DNSError
	switch {
	case err == nil:
		return []Finding{ok(name, "%s is %s", host, addrs[0])}
	case errors.As(err, &dnsErr) && dnsErr.IsNotFound:
		return []Finding{bad(Warn, name, fmt.Errorf("the resolver answers, but does not know %s", host), fix)}
	}
	return []Finding{bad(Fail, name, fmt.Errorf("resolve %s: %w", host, err), fix)}
}

// outboundCheck connects to the target, first from the host, then from inside
// the machine: only the difference says something about Portolan.
func outboundCheck(ctx context.Context, o Options) []Finding {
	const onHost, inMachine = "outbound, host", "outbound, machine"
	var findings []Finding
	hostCtx, cancel := half(ctx) // the rest is the machine's, also where the host waits for silence
	defer cancel()
	conn, hostErr := (&net.Dialer{}).DialContext(hostCtx, "tcp", o.Target)
	if hostErr == nil {
		findings = append(findings, ok(onHost, "%s, from %s", conn.RemoteAddr(), conn.LocalAddr()))
		_ = conn.Close()
	} else {
		findings = append(findings, bad(Warn, onHost, hostErr, "this host does not reach "+o.Target+" itself: look at its network, VPN and firewall"))
	}
	if _, err := o.Status(ctx); err != nil {
		return append(findings, bad(Warn, inMachine, errUnknown, o.Up))
	}
	if o.ProbeOutbound == nil {
		host, port, _ := net.SplitHostPort(o.Target) // Validate has seen it
		return append(findings, bad(Warn, inMachine, errors.New("not checked: this build has no probe"),
			fmt.Sprintf("try it: docker run --rm busybox nc -zv %s %s", host, port)))
	}
	way, err := o.ProbeOutbound(ctx, o.Profile, o.Target)
	switch {
	case err == nil:
		return append(findings, ok(inMachine, "%s", way))
	case hostErr != nil:
		return append(findings, bad(Warn, inMachine, err, "the host does not reach it either"))
	}
	return append(findings, bad(Fail, inMachine, err, "portolan logs --source daemon"))
}

// half ends when half of ctx's time has passed.
func half(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/2)
}
