package vpn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// The company's network, behind an OpenVPN server on the internet. Nothing of
// it can be reached, and none of its names be asked, without the VPN: the lab's
// gateway has no route there and says so.
const (
	serverAddr = lab.EmptyV4
	serverPort = "1194"

	intranetV4 = "10.99.0.1" // web, and echo on port 7
	intranetV6 = "fd99::1"
	resolverV4 = "10.99.0.53"

	clientV4 = "10.8.0.2" // what the server gives to its first client
	clientV6 = "fd08::1000"

	intranetName = "wiki.corp.test"
)

// company is what stands behind the VPN server.
type company struct {
	web [2]*lab.Server // IPv4 first
	udp [2]*lab.Server
	dns *lab.DNS

	keys pki
}

// startCompany puts the company's addresses and servers on the internet node.
func startCompany(t *testing.T, s *stage.Stage) *company {
	t.Helper()
	node := s.Lab.Internet
	for _, addr := range []string{intranetV4 + "/32", resolverV4 + "/32", intranetV6 + "/128"} {
		if err := node.AddAddress("lo", netip.MustParsePrefix(addr)); err != nil {
			t.Fatal(err)
		}
	}
	c := &company{keys: newPKI(t, s.Lab.Dir)}
	for i, addr := range []string{intranetV4, intranetV6} {
		c.web[i] = s.Lab.StartWeb(t, node, hostPort(addr, 80))
		c.udp[i] = s.Lab.StartUDPEcho(t, node, hostPort(addr, 7))
	}
	c.dns = s.Lab.StartDNS(t, node, hostPort(resolverV4, 53),
		intranetName+". 60 IN A "+intranetV4, intranetName+". 60 IN AAAA "+intranetV6)
	return c
}

// openServer starts the OpenVPN server with more options.
func (c *company) openServer(t *testing.T, s *stage.Stage, options ...string) {
	t.Helper()
	startOpenVPN(t, s, s.Lab.Internet, "server", append([]string{
		"--mode", "server", "--tls-server", "--topology", "subnet", "--dh", "none",
		"--local", serverAddr, "--lport", serverPort,
		"--server", "10.8.0.0", "255.255.255.0", "--server-ipv6", "fd08::/64",
		"--cert", c.keys.server.cert, "--key", c.keys.server.key, "--peer-fingerprint", c.keys.client.fingerprint,
		"--push", "route 10.99.0.0 255.255.0.0", "--push", "route-ipv6 fd99::/64",
		"--push", "dhcp-option DNS " + resolverV4, "--push", "dhcp-option DOMAIN corp.test",
	}, options...)...)
}

// connect brings the VPN up on the host, with more options.
func (c *company) connect(t *testing.T, s *stage.Stage, options ...string) *openVPN {
	t.Helper()
	script := writeScript(t, s.Lab.Dir)
	return startOpenVPN(t, s, s.Lab.Host, "client", append([]string{
		"--client", "--nobind", "--remote", serverAddr, serverPort,
		"--cert", c.keys.client.cert, "--key", c.keys.client.key, "--peer-fingerprint", c.keys.server.fingerprint,
		"--script-security", "2", "--up", script + " up", "--down", script + " down",
	}, options...)...)
}

// nameScript does what the scripts do that come with VPNs (on Debian
// /etc/openvpn/update-resolv-conf): the pushed servers go before the host's
// own, and with the VPN they go. It must not rename, for the lab's file is a
// mount.
const nameScript = `#!/bin/sh
set -e
saved=%[1]s/resolv.conf.saved
case $1 in
up)
	cp /etc/resolv.conf "$saved"
	i=1
	while eval option=\$foreign_option_$i && [ -n "$option" ]; do
		case $option in
		'dhcp-option DNS '*) echo "nameserver ${option##* }" ;;
		'dhcp-option DOMAIN '*) echo "search ${option##* }" ;;
		esac
		i=$((i + 1))
	done >"$saved.new"
	cat "$saved" >>"$saved.new"
	cat "$saved.new" >/etc/resolv.conf
	;;
down) cat "$saved" >/etc/resolv.conf ;;
esac
`

func writeScript(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "vpn-names")
	if err := os.WriteFile(path, fmt.Appendf(nil, nameScript, dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// openVPN is a running OpenVPN.
type openVPN struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when the process has ended
	over bool          // stop was called
}

// vpnPatience bounds how long OpenVPN may take to come up or to end.
const vpnPatience = 20 * time.Second

// startOpenVPN returns when the VPN stands: interface, routes and scripts done.
// It is taken down when the test ends, if not before.
func startOpenVPN(t *testing.T, s *stage.Stage, node *lab.Node, name string, options ...string) *openVPN {
	t.Helper()
	v := &openVPN{t: t, log: filepath.Join(s.Lab.Dir, "openvpn-"+name+".log"), done: make(chan struct{})}
	out, err := os.Create(v.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	// Without the kernel's module the tunnel is a TUN device everywhere.
	// The test's context ends before its clean-up: stop ends the program.
	v.cmd = node.Command(context.WithoutCancel(t.Context()), "openvpn", append([]string{"--dev", "tun", "--proto", "udp4", "--disable-dco", "--verb", "3"}, options...)...)
	v.cmd.Stdout, v.cmd.Stderr = out, out
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = v.cmd.Wait() // how it ended is in the log
		close(v.done)
	}()
	t.Cleanup(v.stop)
	stage.Eventually(t, vpnPatience, "OpenVPN's "+name+" is up", func() bool {
		select {
		case <-v.done:
			t.Fatalf("OpenVPN's %s ended:\n%s", name, v.text())
		default:
		}
		return strings.Contains(v.text(), "Initialization Sequence Completed")
	})
	return v
}

func (v *openVPN) text() string {
	text, err := os.ReadFile(v.log)
	if err != nil {
		v.t.Error(err)
	}
	return string(text)
}

// again makes the client connect anew: interface and address go, and are back as
// soon as the server has answered.
func (v *openVPN) again(t *testing.T) {
	t.Helper()
	up := func() int { return strings.Count(v.text(), "Initialization Sequence Completed") }
	before, began := up(), time.Now()
	if err := v.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	stage.Eventually(t, vpnPatience, "OpenVPN has connected again", func() bool { return up() > before })
	t.Logf("OpenVPN connected again within %s", time.Since(began))
}

// stop takes the VPN down in order, and returns when its interface is gone.
func (v *openVPN) stop() {
	v.t.Helper()
	if v.over {
		return
	}
	v.over = true
	if v.t.Failed() {
		v.t.Logf("%s\n%s", v.log, v.text())
	}
	if err := v.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		v.t.Error(err)
	}
	select {
	case <-v.done:
	case <-time.After(vpnPatience):
		_ = v.cmd.Process.Kill() // it may end just now
		v.t.Errorf("OpenVPN does not end:\n%s", v.text())
	}
}

// pki is the two ends' keys. Each knows the other's fingerprint; there is no
// authority (openvpn(8), --peer-fingerprint).
type pki struct{ server, client identity }

type identity struct {
	cert, key   string // files
	fingerprint string
}

func newPKI(t *testing.T, dir string) pki {
	t.Helper()
	return pki{newIdentity(t, dir, "vpn-server"), newIdentity(t, dir, "vpn-client")}
}

func newIdentity(t *testing.T, dir, name string) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, // OpenVPN refuses one without a name
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert)
	id := identity{
		cert: filepath.Join(dir, name+".crt"), key: filepath.Join(dir, name+".key"),
		fingerprint: strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":"),
	}
	err = errors.Join(
		os.WriteFile(id.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644),
		os.WriteFile(id.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
