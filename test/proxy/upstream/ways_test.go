package upstream_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// TestWaysIn: the forward proxy where no proxy is configured, and the host's
// SOCKS5 server.
func TestWaysIn(t *testing.T) { checkWaysIn(t, stage.New(t)) }

// TestWaysInOfAnOrdinaryUser: the same without root.
func TestWaysInOfAnOrdinaryUser(t *testing.T) { checkWaysIn(t, stage.NewUser(t)) }

func checkWaysIn(t *testing.T, s *stage.Stage) {
	t.Helper()
	m := newMachine(t, s, true)
	m.Docker(t, "network", "create", "--ipv6", "mine")
	m.Serve(t, "server", []string{"--network", "mine", "--network-alias", "aliased"}, "web")
	m.Serve(t, "echo", []string{"--network", "mine"}, "echo-udp")
	t.Run("forward proxy", func(t *testing.T) { m.checkForward(t) })
	t.Run("not on the host", func(t *testing.T) {
		for _, addr := range []string{"127.0.0.1:3128", lab.HostV4 + ":3128"} {
			if conn, err := m.Lab.Host.Dial(t.Context(), "tcp", addr); err == nil {
				conn.Close()
				t.Errorf("the host serves %s", addr)
			}
		}
	})
	// From now on they have their default route there, and answer on both networks.
	m.Docker(t, "network", "connect", "bridge", "server")
	m.Docker(t, "network", "connect", "bridge", "echo")
	t.Run("SOCKS", func(t *testing.T) { m.checkSOCKS(t) })
	t.Run("SOCKS, datagrams", func(t *testing.T) { m.checkDatagrams(t) })
	t.Run("SOCKS moves", func(t *testing.T) { m.checkSOCKSMoves(t) })
	t.Run("SOCKS is for the host", func(t *testing.T) {
		if r := m.Toolbox(t, nil, "dial", "tcp", "host.docker.internal:1080"); r.Outcome != testimage.Refused {
			t.Errorf("a container: %+v", r)
		}
	})
}

// inspect is one address of a container on network mine.
func (m machine) inspect(container, field string) string {
	m.t.Helper()
	return m.Docker(m.t, "inspect", "-f", "{{.NetworkSettings.Networks.mine."+field+"}}", container)
}

// checkForward: the direct way is the container's own, with all its limits.
func (m machine) checkForward(t *testing.T) {
	m.Lab.StartWeb(t, m.Lab.Host, "127.0.0.1:8081")
	m.Lab.StartWeb(t, m.Lab.Host, lab.HostAliasV4+":8083")
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"GET", lab.HostV4, []string{"http://" + lab.WebV4 + "/ip"}},
		{"GET over IPv6", lab.HostV6, []string{"http://[" + lab.WebV6 + "]/ip"}},
		{"GET by name, IPv6 first", lab.HostV6, []string{"http://" + webName + "/ip"}},
		{"CONNECT", lab.HostV6, []string{"-p", "http://" + webName + "/ip"}},
		{"TLS", lab.HostV4, []string{"https://" + lab.WebV4 + "/"}},
		{"upload", lab.BytesSHA256(0), []string{"-X", "POST", "http://" + webName + "/upload"}},
		{"the host", "hello", []string{"http://host.docker.internal:8081/"}},
		{"the host's loopback", "502 Bad Gateway", []string{"-i", "http://127.0.0.1:8081/"}},
		{"localhost", "502 Bad Gateway", []string{"-i", "http://localhost:8081/"}},
		{"the loopback in disguise", "502 Bad Gateway", []string{"-i", "http://[::ffff:127.0.0.1]:8081/"}},
		{"the proxy itself", "502 Bad Gateway", []string{"-i", "http://192.168.65.1:3128/"}},
		{"the machine", "502 Bad Gateway", []string{"-i", "http://192.168.65.3:80/"}},
		{"the SOCKS server", "502 Bad Gateway", []string{"-i", "http://host.docker.internal:1080/"}},
		{"a container", "403 Forbidden", []string{"-i", "http://" + m.inspect("server", "IPAddress") + "/"}},
		{"nobody", "502 Bad Gateway", []string{"-i", "http://nobody.internet.test/"}},
	} {
		out, _ := m.curl(append([]string{"-x", forward}, c.args...)...)
		if !strings.Contains(out, c.want) {
			t.Errorf("%s: %s, want %s", c.name, out, c.want)
		}
	}
}

// checkSOCKS: the host's curl reaches containers by address and by name, and
// nothing else.
func (m machine) checkSOCKS(t *testing.T) {
	get := func(url string, more ...string) (string, error) {
		out, err := m.Lab.Host.Command(t.Context(), "curl", append(append([]string{"-sS", "-m", "20", "--socks5-hostname", "127.0.0.1:1080"}, more...), url)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	v4, v6 := m.inspect("server", "IPAddress"), m.inspect("server", "GlobalIPv6Address")
	gateways := strings.Fields(m.Docker(t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.Gateway}} {{.IPv6Gateway}} {{end}}", "server"))
	for _, host := range []string{v4, "[" + v6 + "]", "server", "Server.portolan.internal", "aliased"} {
		out, err := get("http://" + host + "/ip")
		if err != nil || !slices.Contains(gateways, out) {
			t.Errorf("%s: %v; it sees %q, want one of %v", host, err, out, gateways)
		}
	}
	for host, want := range map[string]string{lab.WebV4: "(2)", "192.168.65.254": "(2)", "127.0.0.1": "(2)", webName: "(4)", v4 + ":81": "(5)"} {
		if out, err := get("http://" + host + "/"); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %q, want SOCKS error %s", host, out, want)
		}
	}
}

// checkSOCKSMoves: the setting counts at once, also for whom the server is closed.
func (m machine) checkSOCKSMoves(t *testing.T) {
	listens := func(port string) bool {
		conn, err := m.Lab.Host.Dial(t.Context(), "tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	for _, c := range []struct{ value, open, closed string }{
		{"127.0.0.1:1081", "1081", "1080"},
		{"", "", "1081"},
		{"127.0.0.1:1080", "1080", "1081"},
	} {
		m.Portolan(t, "settings", "set", "portolan.socks", c.value)
		stage.Eventually(t, 5*time.Second, "the server at "+c.value, func() bool { return (c.open == "" || listens(c.open)) && !listens(c.closed) })
		if c.open == "" {
			continue
		}
		if r := m.Toolbox(t, nil, "dial", "tcp", "host.docker.internal:"+c.open); r.Outcome != testimage.Refused {
			t.Errorf("a container at %s: %+v", c.open, r)
		}
	}
}

// checkDatagrams sends to a container's UDP server by address and by name.
func (m machine) checkDatagrams(t *testing.T) {
	control, err := m.Lab.Host.Dial(t.Context(), "tcp", "127.0.0.1:1080")
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	_ = control.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = control.Write([]byte{5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0})
	answer := make([]byte, 12)
	if _, err := io.ReadFull(control, answer); err != nil || answer[3] != 0 {
		t.Fatalf("%v, %v", answer, err)
	}
	relay := netip.AddrPortFrom(netip.AddrFrom4([4]byte(answer[6:10])), binary.BigEndian.Uint16(answer[10:]))
	client, err := m.Lab.Host.Dial(t.Context(), "udp", relay.String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	v4, v6 := netip.MustParseAddr(m.inspect("echo", "IPAddress")), netip.MustParseAddr(m.inspect("echo", "GlobalIPv6Address"))
	other := netip.MustParseAddr(m.Docker(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "echo"))
	byV4 := append(append([]byte{0, 0, 0, 1}, v4.AsSlice()...), 0, 7)
	byOther := append(append([]byte{0, 0, 0, 1}, other.AsSlice()...), 0, 7)
	byV6 := append(append([]byte{0, 0, 0, 4}, v6.AsSlice()...), 0, 7)
	byName := append([]byte{0, 0, 0, 3, 4}, "echo\x00\x07"...)
	for _, c := range []struct {
		sent []byte
		back [][]byte // any of these
	}{{byV4, [][]byte{byV4}}, {byOther, [][]byte{byOther}}, {byV6, [][]byte{byV6}}, {byName, [][]byte{byV4, byOther}}} {
		_ = client.SetDeadline(time.Now().Add(10 * time.Second))
		payload := bytes.Repeat([]byte("u"), 30000)
		if _, err := client.Write(append(bytes.Clone(c.sent), payload...)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		n, err := client.Read(buf)
		if err != nil || !slices.ContainsFunc(c.back, func(head []byte) bool { return bytes.Equal(buf[:n], append(bytes.Clone(head), payload...)) }) {
			t.Errorf("%v: %d bytes, %v", c.sent, n, err)
		}
	}
	// A container that finds the port is nobody's client.
	if r := m.Toolbox(t, nil, "udp-send", net.JoinHostPort("host.docker.internal", relay.String()[strings.LastIndexByte(relay.String(), ':')+1:]), "-timeout", "2s"); r.Outcome != testimage.Refused {
		t.Errorf("a container: %+v", r)
	}
}
