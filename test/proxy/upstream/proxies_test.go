package upstream_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// The company's proxies, on the host's neighbour.
const (
	squidOpen  = lab.NeighbourV4 + ":3128"
	squidBasic = lab.NeighbourV4 + ":3129" // me, with password
	squidTLS   = lab.NeighbourV4 + ":3130" // its certificate is for squidName
	squidNTLM  = lab.NeighbourV4 + ":3131" // CORP\me, with password
	tinyproxy  = lab.NeighbourV4 + ":8888"
	dante      = lab.NeighbourV4 + ":1080"

	password = "wo:rt@/1"
)

// program finds what scripts/packages unpacked.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../../bin", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("find %s: %v; type: scripts/packages test", name, err)
	}
	return path
}

// office writes what the proxies read.
type office struct {
	t   *testing.T
	lab *lab.Lab
	dir string
}

func newOffice(t *testing.T, l *lab.Lab) office {
	t.Helper()
	o := office{t, l, filepath.Join(l.Dir, "office")}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// squid writes there as nobody.
	if err := errors.Join(os.Chmod(l.Dir, 0o755), os.Chmod(o.dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o office) write(name, text string, mode os.FileMode) string {
	o.t.Helper()
	path := filepath.Join(o.dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		o.t.Fatal(err)
	}
	return path
}

// start runs a program on the neighbour until the test ends, and waits for its
// ports. The returned function ends it before.
func (o office) start(ports []string, name string, args ...string) (stop func()) {
	o.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(o.t.Context()))
	// The company's computer has the company's resolver.
	resolver := o.write("resolv.conf", "nameserver "+lab.DNSV4+"\n", 0o644)
	cmd := o.lab.Neighbour.Command(ctx, "unshare", append([]string{"-m", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, resolver, name}, args...)...)
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}()
	stop = func() { cancel(); <-ended }
	o.t.Cleanup(func() {
		stop()
		if o.t.Failed() {
			text, _ := os.ReadFile(filepath.Join(o.dir, "cache.log"))
			const enough = 8 << 10 // squid has no end of words about a helper that dies
			o.t.Logf("%s: %s\n%s", name, out.Bytes()[max(0, out.Len()-enough):], text[max(0, len(text)-enough):])
		}
	})
	stage.Eventually(o.t, 20*time.Second, name+" listens", func() bool {
		for _, port := range ports {
			conn, err := o.lab.Neighbour.Dial(o.t.Context(), "tcp", port)
			if err != nil {
				return false
			}
			_ = conn.Close()
		}
		return true
	})
	return stop
}

// startSquid runs squid, and returns the certificate of its TLS port.
func (o office) startSquid() (ca *x509.Certificate, stop func()) {
	o.t.Helper()
	where := program(o.t, "squid")
	cert, ca := o.certificate()
	login := o.write("login", "#!/bin/sh\nwhile read -r user word; do [ \"$user $word\" = 'me "+password+"' ] && echo OK || echo ERR; done\n", 0o755)
	config := o.write("squid.conf", fmt.Sprintf(`http_port %[1]s
http_port %[2]s
https_port %[3]s tls-cert=%[4]s
http_port %[9]s
auth_param basic program %[5]s
auth_param basic children 1
auth_param ntlm program %[10]s
auth_param ntlm children 1
acl ntlm myportname %[9]s
auth_schemes ntlm ntlm
auth_schemes basic all
acl me proxy_auth REQUIRED
acl basic myportname %[2]s
acl forbidden dstdomain .forbidden.test
http_access deny forbidden
http_access deny basic !me
http_access deny ntlm !me
http_access allow all
cache deny all
cache_mem 1 MB
dns_nameservers %[6]s
cache_effective_user nobody
cache_effective_group nogroup
pid_filename %[7]s/pid
access_log none
cache_log %[7]s/cache.log
cache_store_log none
coredump_dir %[7]s
error_directory %[8]s/usr/share/squid/errors/templates
mime_table %[8]s/usr/share/squid/mime.conf
icon_directory %[8]s/usr/share/squid/icons
pinger_enable off
unlinkd_program %[8]s/usr/lib/squid/unlinkd
netdb_filename none
shutdown_lifetime 0 seconds
`, squidOpen, squidBasic, squidTLS, o.write("squid.pem", cert, 0o600), login, lab.DNSV4, o.dir, where, squidNTLM, o.judge()), 0o644)
	// Its shared memory has the name of its service, is the computer's, and stays
	// when it is killed.
	service := fmt.Sprintf("lab%d", os.Getpid())
	o.t.Cleanup(func() {
		left, _ := filepath.Glob("/dev/shm/" + service + "-*") // the pattern is right
		for _, path := range left {
			_ = os.Remove(path)
		}
	})
	stop = o.start([]string{squidOpen, squidBasic, squidTLS, squidNTLM}, filepath.Join(where, "usr/sbin/squid"), "-N", "-n", service, "-f", config)
	return ca, stop
}

// judge is what tells squid whether a login by NTLM is right: Samba's program,
// which knows one password, and no domain. It is a copy: squid asks it as nobody,
// who may not be let into the directory that all of this lies in.
func (o office) judge() string {
	o.t.Helper()
	samba := filepath.Join(o.dir, "samba")
	if err := os.CopyFS(samba, os.DirFS(program(o.t, "samba"))); err != nil {
		o.t.Fatal(err)
	}
	libraries, err := filepath.Glob(filepath.Join(samba, "usr/lib/*/libtalloc.so.2"))
	if err != nil || len(libraries) != 1 {
		o.t.Fatalf("find Samba's libraries in %s: %v, %v", samba, libraries, err)
	}
	lib := filepath.Dir(libraries[0])
	config := "[global]\nworkgroup = CORP\nnetbios name = PROXY\n"
	for _, dir := range []string{"private dir", "lock directory", "state directory", "cache directory", "pid directory", "ncalrpc dir"} {
		config += dir + " = " + o.dir + "\n"
	}
	return o.write("judge", fmt.Sprintf("#!/bin/sh\nLD_LIBRARY_PATH=%[1]s:%[1]s/samba exec %[2]s/usr/bin/ntlm_auth --configfile=%[3]s --helper-protocol=squid-2.5-ntlmssp --password='%[4]s'\n",
		lib, samba, o.write("smb.conf", config, 0o644), password), 0o755)
}

func (o office) startTinyproxy() {
	o.t.Helper()
	config := o.write("tinyproxy.conf", fmt.Sprintf("Port 8888\nListen %s\nTimeout 60\nMaxClients 20\nConnectPort 80\nConnectPort 7\nConnectPort 5000\nLogFile \"%s/tinyproxy.log\"\n", lab.NeighbourV4, o.dir), 0o644)
	o.start([]string{tinyproxy}, program(o.t, "tinyproxy"), "-d", "-c", config)
}

func (o office) startDante() {
	o.t.Helper()
	config := o.write("danted.conf", `logoutput: stderr
internal: lan0 port = 1080
external: lan0
clientmethod: none
socksmethod: none
user.privileged: root
user.unprivileged: root
client pass { from: 0/0 to: 0/0 }
socks block { from: 0/0 to: `+lab.EmptyV4+`/32 }
socks pass { from: 0/0 to: 0/0 }
`, 0o644)
	o.start([]string{dante}, program(o.t, "danted"), "-f", config, "-p", filepath.Join(o.dir, "danted.pid"))
}

// certificate is one that signs itself, for the neighbour's address, with its key.
func (o office) certificate() (text string, cert *x509.Certificate) {
	o.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		o.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "squid"}, IPAddresses: []net.IP{net.ParseIP(lab.NeighbourV4)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		o.t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		o.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		o.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})), cert
}
