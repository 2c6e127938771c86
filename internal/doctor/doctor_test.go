package doctor

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/profile"
)

// options is a machine that does not run, and a target that refuses.
func options(t *testing.T) Options {
	t.Helper()
	dir, err := os.MkdirTemp("", "ptd") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return Options{
		Profile: profile.Profile{Name: "default", StateDir: filepath.Join(dir, "a", "b"), RunDir: dir},
		Engine:  "auto", Target: refused(t), Up: "portolan up",
		Status: func(context.Context) (api.Status, error) {
			return api.Status{}, errors.New("portolan is not running: start it with: portolan up")
		},
	}
}

// refused is an address on which nobody listens.
func refused(t *testing.T) string {
	t.Helper()
	l := listen(t, "tcp", "127.0.0.1:0")
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func running(context.Context) (api.Status, error) {
	return api.Status{State: api.Running, Daemon: api.Process{PID: 1}}, nil
}

func find(t *testing.T, findings []Finding, check string) Finding {
	t.Helper()
	for _, f := range findings {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("no finding %q in %v", check, findings)
	return Finding{}
}

// Everything that is not ok says what to do, and only failures count.
func TestRunReportsEveryFinding(t *testing.T) {
	o := options(t)
	o.LocateEngine = func(context.Context, string) (string, error) { return "", errors.New("none") }
	var seen []Finding
	report := Run(t.Context(), o, func(f Finding) { seen = append(seen, f) })
	if report.OK || len(seen) != len(report.Findings) {
		t.Errorf("OK = %v, %d findings, %d seen", report.OK, len(report.Findings), len(seen))
	}
	for _, f := range report.Findings {
		if f.Check == "" || f.Detail == "" || (f.Result == OK) != (f.Fix == "") {
			t.Errorf("finding %+v", f)
		}
	}
	if f := find(t, seen, "engine"); f.Result != Fail {
		t.Errorf("engine = %+v", f)
	}
	if f := find(t, seen, "machine"); f.Result != Warn || f.Fix != "portolan up" || f.Detail != "portolan is not running" {
		t.Errorf("machine = %+v", f)
	}
}

func TestEngineSearch(t *testing.T) {
	o := options(t)
	o.EngineDirs = []string{t.TempDir()}
	t.Setenv("PATH", t.TempDir())
	for _, engine := range []string{"auto", "bundled", "/nowhere/dockerd"} {
		if where, err := o.search(t.Context(), engine); err == nil {
			t.Errorf("%s: found %s", engine, where)
		}
	}
	built := filepath.Join(o.EngineDirs[0], "dockerd")
	if err := os.WriteFile(built, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, engine := range []string{"auto", "bundled", built} {
		if where, err := o.search(t.Context(), engine); where != built || err != nil {
			t.Errorf("%s: found %s, %v", engine, where, err)
		}
	}
}

func TestMachineThatRuns(t *testing.T) {
	o := options(t)
	o.Status = func(ctx context.Context) (api.Status, error) {
		status, err := running(ctx)
		status.State, status.Problems = api.Degraded, []string{"dockerd was restarted"}
		return status, err
	}
	findings := machineChecks(t.Context(), o)
	if f := find(t, findings, "engine API"); f.Result != Fail {
		t.Errorf("without an engine: %+v", f)
	}
	if findings[0].Result != Warn || findings[1].Detail != "dockerd was restarted" {
		t.Errorf("degraded: %+v", findings)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_ping" {
			w.WriteHeader(http.StatusNotFound)
		}
		w.Header().Set("Api-Version", "1.52")
	})}
	l := listen(t, "unix", o.Profile.DockerSocket())
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	if f := find(t, machineChecks(t.Context(), o), "engine API"); f.Result != OK || !strings.Contains(f.Detail, "API 1.52") {
		t.Errorf("with an engine: %+v", f)
	}
	_ = server.Close()
	<-served
}

func TestOutbound(t *testing.T) {
	l := listen(t, "tcp", "127.0.0.1:0")
	defer func() { _ = l.Close() }()
	boom := func(context.Context, profile.Profile, string) (string, error) { return "", errors.New("boom") }
	fine := func(_ context.Context, _ profile.Profile, target string) (string, error) {
		return "direct to " + target, nil
	}
	for _, c := range []struct {
		name            string
		target          string
		status          func(context.Context) (api.Status, error)
		probe           func(context.Context, profile.Profile, string) (string, error)
		onHost, machine Result
	}{
		{"both", l.Addr().String(), running, fine, OK, OK},
		{"host only", l.Addr().String(), running, boom, OK, Fail},
		{"neither", refused(t), running, boom, Warn, Warn},
		{"no machine", l.Addr().String(), options(t).Status, fine, OK, Warn},
		{"no probe", l.Addr().String(), running, nil, OK, Warn},
	} {
		o := options(t)
		o.Target, o.Status, o.ProbeOutbound = c.target, c.status, c.probe
		findings := outboundCheck(t.Context(), o)
		if h, m := find(t, findings, "outbound, host"), find(t, findings, "outbound, machine"); h.Result != c.onHost || m.Result != c.machine {
			t.Errorf("%s: host %+v, machine %+v", c.name, h, m)
		}
	}
}

func TestResolver(t *testing.T) {
	o := options(t)
	o.Target = "localhost:1" // in every hosts file
	if f := resolverCheck(t.Context(), o)[0]; f.Result != OK {
		t.Errorf("localhost: %+v", f)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o.Target = "unreachable.example:1"
	if f := resolverCheck(ctx, o)[0]; f.Result != Fail || f.Fix == "" {
		t.Errorf("a resolver that does not answer: %+v", f)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		target, engine string
		ok             bool
	}{
		{"a:1", "auto", true}, {"[::1]:1", "bundled", true}, {"a:1", "/usr/bin/dockerd", true},
		{"a", "auto", false}, {":1", "auto", false}, {"a:", "auto", false}, {"a:0", "auto", false}, {"a:65536", "auto", false}, {"a:http", "auto", false}, {"a:1", "dockerd", false},
	} {
		if err := (Options{Target: c.target, Engine: c.engine}).Validate(); (err == nil) != c.ok {
			t.Errorf("Validate(%s, %s) = %v", c.target, c.engine, err)
		}
	}
}
