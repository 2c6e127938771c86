package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/bench/report"
)

// Ports of the servers, wherever they run.
const (
	probePort = "5202"
	webPort   = "5280"
)

// contestant is one way to carry traffic, set up. Each of its ways may be nil.
type contestant struct {
	report.Contestant

	out       *way         // from inside to a server on the host, or beyond
	published *way         // from the host to a server inside
	resolver  *way         // from inside to its name server
	idle      []*way       // of idle flows, where out is not enough
	carriers  func() []int // the processes that carry the bytes

	sameProcess bool // as another contestant: idle flows cost the same
}

// way is one way from a client to a server.
type way struct {
	client commander
	addr   string // of the server's probe as the client sees it, "ip:port"
	web    string // of the server's nginx
	server int    // the process that serves
}

// none are the carriers where the kernel carries.
func none() []int { return nil }

func these(pids ...int) func() []int { return func() []int { return pids } }

// seconds is the processor time that server and carriers have had.
func (c *contestant) seconds(w *way) (total float64) {
	for _, pid := range append(c.carriers(), w.server) {
		total += cpuSeconds(pid)
	}
	return total
}

// probe runs the probe as the way's client and reads the JSON that it prints.
func (w *way) probe(ctx context.Context, into any, command string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := output(w.client(ctx, probe, append([]string{command, w.addr}, args...)...))
	if err != nil {
		return fmt.Errorf("probe %s: %w: %s", command, err, bytes.TrimSpace(out))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(out, into)
}

// output is the program's standard output; after a failure both outputs.
func output(cmd *exec.Cmd) ([]byte, error) {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if err != nil {
		out.Write(errOut.Bytes())
	}
	return out.Bytes(), err
}

// serve starts probe and nginx somewhere and returns the probe's process.
func serve(t testing.TB, where commander, addr string) int {
	t.Helper()
	server := start(t, where(t.Context(), probe, "serve", addr+":"+probePort))
	start(t, where(t.Context(), filepath.Join(repository, "bin/nginx"), "-e", "stderr", "-c", nginxConf(t, addr+":"+webPort)))
	eventually(t, "servers listen", func() bool {
		for _, port := range []string{probePort, webPort} {
			if listening, err := output(where(t.Context(), "ss", "-Hltn", "sport = :"+port)); err != nil || len(listening) == 0 {
				return false
			}
		}
		return true
	})
	return server.Process.Pid
}

// nginxConf writes a configuration for one process that answers from memory.
func nginxConf(t testing.TB, addr string) string {
	t.Helper()
	dir := t.TempDir()
	var text strings.Builder
	fmt.Fprintf(&text, "daemon off; master_process off; user root; pid %s/pid; error_log stderr;\n", dir)
	fmt.Fprint(&text, "events { worker_connections 1024; }\nhttp { access_log off; keepalive_requests 10000000;\n")
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&text, "%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	fmt.Fprintf(&text, "server { listen %s; location / { return 200 'hello, world'; } } }\n", addr)
	path := filepath.Join(dir, "nginx.conf")
	check(t, os.WriteFile(path, []byte(text.String()), 0o600))
	return path
}

// works tries each way once, some seconds long: what was started a moment ago
// may not be ready.
func (c *contestant) works(ctx context.Context) error {
	var errs []error
	for _, w := range []*way{c.out, c.published} {
		if w != nil {
			errs = append(errs, soon(func() error { return w.probe(ctx, nil, "request", "10ms") }))
		}
	}
	return errors.Join(errs...)
}

// soon tries until it works, a few seconds.
func soon(try func() error) (err error) {
	for range 50 {
		if err = try(); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}
