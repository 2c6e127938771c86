package proxy_test

import (
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// python is what Python's own library makes of the variables.
const python = `
import sys, urllib.request
for url in sys.argv[1:]:
    print(urllib.request.urlopen(url, timeout=20).read().decode().strip())`

// checkClients: curl, Python and Go read the variables as they are meant. What
// NO_PROXY names is not there for the proxy.
func checkClients(t *testing.T, s *stage.Stage) {
	s.Docker(t, "network", "create", "--ipv6", "clients")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "clients") })
	s.Serve(t, "near", []string{"--network", "clients", "--network-alias", "app.corp.test"}, "web")
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "near") })
	address := func(field string) string {
		return s.Docker(t, "inspect", "-f", "{{.NetworkSettings.Networks.clients."+field+"}}", "near")
	}
	flags := []string{"run", "--rm", "--network", "clients", "-v", "/usr:/usr:ro", "-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro", "--entrypoint"}
	curl := func(urls ...string) (string, int) {
		return s.TryDocker(t, append(append(flags, "/usr/bin/curl", testimage.Name, "-sSf", "-m", "20"), urls...)...)
	}
	urllib := func(urls ...string) (string, int) {
		return s.TryDocker(t, append(append(flags, "/usr/bin/python3", testimage.Name, "-c", python), urls...)...)
	}
	golang := func(urls ...string) (all string, code int) {
		for _, url := range urls {
			r := s.Toolbox(t, []string{"--network", "clients"}, "get", url)
			if all += r.Body + r.Error; r.Outcome != testimage.OK {
				code = 1
			}
		}
		return all, code
	}
	direct := []string{"http://near/ip", "http://app.corp.test/ip", "http://" + address("IPAddress") + "/ip", "http://[" + address("GlobalIPv6Address") + "]/ip"}
	for _, c := range []struct {
		name string
		get  func(urls ...string) (string, int)
	}{
		{"curl", curl},
		{"Python", urllib},
		{"Go", golang},
	} {
		if out, code := c.get(direct...); code != 0 || bySquid(out) {
			t.Errorf("%s %s: exit code %d: %s; want the direct way", c.name, direct, code, out)
		}
		if out, code := c.get("http://web.internet.test/ip"); code != 0 || !bySquid(out) {
			t.Errorf("%s: exit code %d: %s; want the proxy's way", c.name, code, strings.TrimSpace(out))
		}
	}
}

// checkPlainRegistry pushes and pulls without TLS, which is all in absolute form.
func checkPlainRegistry(t *testing.T, s *stage.Stage) {
	image := plainRegistryName + "/test/plain:1"
	s.Docker(t, "tag", testimage.Name, image)
	s.Docker(t, "push", image)
	s.Docker(t, "rmi", image)
	s.Docker(t, "pull", image)
	s.Docker(t, "rmi", image)
	if out := s.Lab.Neighbour.Run(t, "cat", squidLog(s)); !strings.Contains(out, "PUT http://"+plainRegistryName+"/v2/test/plain/manifests/1") {
		t.Errorf("the push did not go by squid:\n%s", out)
	}
}
