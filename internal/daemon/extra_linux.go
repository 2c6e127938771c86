package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/portolan-net/portolan/internal/enginesocket"
	"github.com/portolan-net/portolan/internal/proxy"
)

// extras says what containers and builds get beyond what their user asked for.
type extras struct {
	daemon   *daemon
	policy   func() *proxy.Policy // the containers'
	engine   *enginesocket.Proxy
	log      *slog.Logger
	findPool func() string // the host's CA bundle, "" for none
	sysctls  map[string]string
}

// newEngineSocket returns what carries docker's connections.
func (d *daemon) newEngineSocket(policy func() *proxy.Policy) *enginesocket.Proxy {
	e := &extras{daemon: d, policy: policy, log: d.Log.With("part", "engine-socket"), findPool: certificateBundle, sysctls: unpaced()}
	e.engine = enginesocket.New(enginesocket.Config{Engine: d.Profile.EngineSocket(), Extra: e.now, BeforeSwarm: d.beforeSwarm, Log: e.log})
	return e.engine
}

// now is enginesocket.Config.Extra.
func (e *extras) now(ctx context.Context) enginesocket.Extra {
	extra := enginesocket.Extra{Sysctls: e.sysctls}
	v := e.daemon.values.Load()
	if policy := e.policy(); v.ProxyVariables && policy.Configured() {
		extra.BuildArgs = enginesocket.Variables(e.noProxy(ctx, policy))
		extra.Env = extra.BuildArgs
	}
	if bundle := e.findPool(); v.Certificates && bundle != "" {
		extra.Binds = []string{bundle + ":" + bundleInContainer + ":ro"}
		extra.Env = append(bundleVariables(), extra.Env...)
	}
	return extra
}

// unpaced keeps BBR, where it is the host's default, out of containers: their
// connections end at the router, a memory away, and there its timers only halve
// their speed. What goes on from the host has the host's default.
func unpaced() map[string]string {
	const name = "net.ipv4.tcp_congestion_control" // of IPv6, too
	algorithm, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil || !strings.HasPrefix(string(algorithm), "bbr") {
		return nil
	}
	return map[string]string{name: "reno"} // which every kernel has
}

// noProxy is NO_PROXY for a container that is made now.
func (e *extras) noProxy(ctx context.Context, policy *proxy.Policy) string {
	networks, err := e.engine.Networks(ctx)
	if err != nil {
		e.log.Warn("NO_PROXY is without the engine's networks", "err", err)
	}
	names, err := e.engine.Names(ctx)
	if err != nil {
		e.log.Warn("NO_PROXY is without names of containers", "err", err)
	}
	return enginesocket.NoProxy(policy.Exclusions(), networks, names)
}

// bundleInContainer is where containers find the host's CA certificates: a place
// of its own, beside those of the image.
const bundleInContainer = "/etc/portolan/ca-certificates.crt"

// bundleVariables name it to OpenSSL, Go and Ruby, to curl, Python's requests
// and pip, Node.js, git and the AWS clients.
func bundleVariables() []string {
	var all []string
	for _, name := range []string{"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE"} {
		all = append(all, name+"="+bundleInContainer)
	}
	return all
}

// certificateFiles are the places of a system's CA bundle, of which crypto/x509
// takes the first.
func certificateFiles() []string {
	return []string{
		"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Arch
		"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora
		"/etc/ssl/ca-bundle.pem",                            // openSUSE
		"/etc/pki/tls/cacert.pem",                           // OpenELEC
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL
		"/etc/ssl/cert.pem",                                 // Alpine
	}
}

// certificateBundle is the host's CA bundle, all links followed: the engine
// mounts what it finds there.
func certificateBundle() string {
	for _, path := range certificateFiles() {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if resolved, err := filepath.EvalSymlinks(path); err == nil {
			return resolved
		}
	}
	return ""
}
