package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// Lab is one test internet. Its nodes live until the test that made it ends.
type Lab struct {
	Host      *Node // runs the program under test; own mounts
	Neighbour *Node // another computer on the host's LAN
	Gateway   *Node // forwards between LAN and internet
	Internet  *Node // holds the servers' addresses

	// Dir holds the lab's files; it goes with the lab. Its name is the mark by
	// which the lab knows its processes.
	Dir string

	fabric   *Node // the switch
	links    map[string]*Link
	refuser  *refuser
	watchdog *watchdog

	mu   sync.Mutex
	loss map[string]float64 // by link; guarded by mu
}

// Option changes what New builds.
type Option func(*config)

type config struct{ mtu int }

// WithMTU sets the MTU of every link; 1500 is the default.
func WithMTU(mtu int) Option { return func(c *config) { c.mtu = mtu } }

// strayGrace is how long processes of the lab may take to end after the test.
const strayGrace = 2 * time.Second

// New builds a lab and takes it down when the test ends. A program that then
// still runs in the lab is killed and fails the test.
func New(t testing.TB, opts ...Option) *Lab {
	t.Helper()
	c := config{mtu: 1500}
	for _, o := range opts {
		o(&c)
	}
	l, err := build(c)
	if err != nil {
		t.Fatalf("build lab: %v", err)
	}
	t.Cleanup(func() {
		strays := l.awaitQuiet(strayGrace)
		for _, s := range strays {
			t.Errorf("lab: left running: %s", s)
		}
		if err := l.close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	return l
}

// build makes directory, watchdog, nodes and network, in that order.
func build(c config) (_ *Lab, err error) {
	l := &Lab{links: map[string]*Link{}, loss: map[string]float64{}}
	if l.Dir, err = makeDir("portolan-lab"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if l.watchdog, err = startWatchdog(l.Dir); err != nil {
		return nil, err
	}
	if err = errors.Join(l.SetResolvConf(defaultResolvConf), l.SetHosts(defaultHosts)); err != nil {
		return nil, err
	}
	if err = l.addNodes(); err != nil {
		return nil, err
	}
	if err = l.connect(c); err != nil {
		return nil, fmt.Errorf("connect nodes: %w", err)
	}
	return l, nil
}

// makeDir makes a directory whose name tells whose it is. It ends in a letter,
// so that no such name is the beginning of another.
func makeDir(prefix string) (string, error) {
	return os.MkdirTemp("", fmt.Sprintf("%s-%d-*.d", prefix, os.Getpid()))
}

func (l *Lab) addNodes() (err error) {
	mount := func() error { return mountHost(l.Dir) }
	for _, n := range []struct {
		at    **Node
		name  string
		mount func() error
	}{
		{&l.fabric, "switch", nil},
		{&l.Gateway, "gateway", nil},
		{&l.Internet, "internet", nil},
		{&l.Neighbour, "neighbour", nil},
		{&l.Host, "host", mount},
	} {
		if *n.at, err = newNode(n.name, l.Dir, n.mount); err != nil {
			return fmt.Errorf("make node %s: %w", n.name, err)
		}
	}
	return nil
}

// close ends the lab's processes and gives up its namespaces and its directory.
func (l *Lab) close() error {
	if l.refuser != nil {
		l.refuser.close()
	}
	for _, n := range slices.Backward(l.nodes()) {
		n.close()
	}
	if l.watchdog == nil {
		return os.RemoveAll(l.Dir)
	}
	return l.watchdog.stop()
}

func (l *Lab) nodes() []*Node {
	all := []*Node{l.fabric, l.Gateway, l.Internet, l.Neighbour, l.Host}
	return slices.DeleteFunc(all, func(n *Node) bool { return n == nil })
}

const defaultResolvConf = "nameserver " + DNSV4 + "\nnameserver " + DNS2V4 + "\n"

const defaultHosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n" +
	HostV4 + " host.lab\n" + HostV6 + " host.lab\n" +
	NeighbourV4 + " neighbour.lab\n" + NeighbourV6 + " neighbour.lab\n"

// SetResolvConf replaces the content of the host's /etc/resolv.conf. The file
// stays the same file.
func (l *Lab) SetResolvConf(text string) error { return l.write("resolv.conf", text) }

// SetHosts replaces the content of the host's /etc/hosts.
func (l *Lab) SetHosts(text string) error { return l.write("hosts", text) }

func (l *Lab) write(name, text string) error {
	return os.WriteFile(filepath.Join(l.Dir, name), []byte(text), 0o644)
}
