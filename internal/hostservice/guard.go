package hostservice

import (
	"errors"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// ErrForbidden is what a refused target's error wraps.
var ErrForbidden = errors.New("it rules an engine or Portolan, and containers could use it")

// Guard knows the sockets that no forward may lead to, nor take the place of.
type Guard struct {
	// Dirs hold nothing but such sockets, at any depth.
	Dirs []string
	// Sockets are patterns of paths, as path.Match knows them.
	Sockets []string
}

// HostGuard is for targets on the host. run is the profile's directory of
// sockets, beside those of other profiles; dockerHost is what DOCKER_HOST says,
// "" for nothing.
func HostGuard(run, dockerHost string) Guard {
	// Named itself as well, since a confined daemon can't list the directory above.
	g := Guard{Dirs: []string{filepath.Dir(run), run, "/run/portolan", "/run/docker", "/run/containerd"}, Sockets: engineSockets()}
	if own, ok := strings.CutPrefix(dockerHost, "unix://"); ok {
		g.Sockets = append(g.Sockets, filepath.Clean(own))
	}
	return g
}

// MachineGuard is for targets in the machine, which shows the host's files too.
func MachineGuard() Guard {
	g := Guard{Dirs: []string{"/run/portolan", "/run/portolan-agent", "/run/docker", "/run/containerd"}, Sockets: engineSockets()}
	for i := range g.Dirs {
		g.Dirs = append(g.Dirs, "/run/.host"+g.Dirs[i])
	}
	for i := range g.Sockets {
		g.Sockets = append(g.Sockets, "/run/.host"+g.Sockets[i])
	}
	return g
}

// engineSockets are where engines and what starts containers for them listen.
func engineSockets() []string {
	return []string{
		"/run/docker.sock", "/run/containerd/containerd.sock", "/run/cri-dockerd.sock", "/run/crio/crio.sock", "/run/buildkit/buildkitd.sock",
		"/run/podman/podman.sock", "/run/k3s/containerd/containerd.sock",
		"/run/user/*/docker.sock", "/run/user/*/docker/*.sock", "/run/user/*/podman/podman.sock",
		"/run/user/*/portolan/*/*.sock", "/run/user/*/portolan/*/*/*.sock",
		"/home/*/.docker/run/docker.sock", "/home/*/.docker/desktop/*.sock", "/*/.docker/run/docker.sock",
		"/home/*/.local/run/portolan/*/*.sock", "/home/*/.local/run/portolan/*/*/*.sock",
	}
}

// rulers are the programs that serve such sockets, wherever those are.
var rulers = []string{"dockerd", "cri-dockerd", "crio", "podman", "buildkitd", "portolan", "portolan-agent"}

// enginePorts are where engines listen on TCP: the registered ports of docker
// and docker-s, the second of which asks for a certificate before it says what it is.
var enginePorts = []uint16{2375, 2376}

func isRuler(program string) bool {
	return slices.Contains(rulers, program) || strings.HasPrefix(program, "containerd")
}

// names reports whether the path itself, links followed already, is one of g's.
func (g Guard) names(real string) bool {
	// /var/run is /run on every system since the standard of 2015 (FHS 3.0).
	if rest, ok := strings.CutPrefix(real, "/var/run/"); ok {
		real = "/run/" + rest
	}
	for _, dir := range g.Dirs {
		if strings.HasPrefix(real, filepath.Clean(dir)+"/") {
			return true
		}
	}
	return slices.ContainsFunc(g.Sockets, func(pattern string) bool {
		ok, _ := path.Match(pattern, real) // a bad pattern matches nothing; ours are tested
		return ok
	})
}

// namesMissing is names for a socket that is not there, or can't be looked at:
// as far as its directory can be found.
func (g Guard) namesMissing(socket string) bool {
	if g.names(filepath.Clean(socket)) {
		return true
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(socket))
	return err == nil && g.names(filepath.Join(dir, filepath.Base(socket)))
}
