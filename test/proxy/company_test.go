package proxy_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// authority is a CA as a company has one.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue makes a server's certificate.
func (a *authority) issue(t *testing.T, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// withKey is the CA's certificate and key in one PEM, for squid.
func (a *authority) withKey(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	return append(bytes.Clone(a.pem), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
}

// serveTLS serves on the web server's address with a certificate of ca.
func serveTLS(t *testing.T, s *stage.Stage, port int, ca *authority, handler http.Handler) {
	t.Helper()
	l, err := s.Lab.Internet.Listen("tcp", fmt.Sprintf("%s:%d", lab.WebV4, port))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "web.internet.test")}},
	}
	go func() { _ = server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
}

// squidDir is where scripts/packages unpacks squid.
func squidDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../bin/squid")
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "usr/sbin/squid"))
	}
	if err != nil {
		t.Fatalf("find squid: %v; type: scripts/packages test", err)
	}
	return dir
}

// squidLog is where squid writes what it was asked for.
func squidLog(s *stage.Stage) string { return filepath.Join(s.Lab.Dir, "squid", "access.log") }

// startSquid runs squid on the neighbour, the company's way out, on two ports:
// 3128 is an ordinary proxy, 3129 looks into TLS with certificates of inspector.
func startSquid(t *testing.T, s *stage.Stage, inspector, outside *authority) {
	t.Helper()
	program, dir := squidDir(t), filepath.Join(s.Lab.Dir, "squid")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := write("squid.conf", fmt.Appendf(nil, `http_port %[1]s:3128
http_port %[1]s:3129 ssl-bump tls-cert=%[2]s generate-host-certificates=on dynamic_cert_mem_cache_size=1MB
sslcrtd_program %[3]s/usr/lib/squid/security_file_certgen -s %[4]s/certs -M 1MB
sslcrtd_children 2 startup=1
unlinkd_program %[3]s/usr/lib/squid/unlinkd
logfile_daemon %[3]s/usr/lib/squid/log_file_daemon
acl inspected myportname %[1]s:3129
acl begin at_step SslBump1
ssl_bump peek begin
ssl_bump bump all
tls_outgoing_options cafile=%[5]s
http_access allow all
cache deny all
cache_mem 1 MB
dns_nameservers %[6]s
pid_filename %[4]s/pid
access_log stdio:%[4]s/access.log
cache_log %[4]s/cache.log
cache_store_log none
coredump_dir %[4]s
error_directory %[3]s/usr/share/squid-langpack/templates
mime_table %[3]s/usr/share/squid/mime.conf
icon_directory %[3]s/usr/share/squid/icons
pinger_enable off
netdb_filename none
shutdown_lifetime 0 seconds
`, lab.NeighbourV4, write("inspector.pem", inspector.withKey(t)), program, dir, write("outside.pem", outside.pem), lab.DNSV4))
	s.Lab.Neighbour.Run(t, filepath.Join(program, "usr/lib/squid/security_file_certgen"), "-c", "-s", filepath.Join(dir, "certs"), "-M", "1MB")
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	// squid refuses to be root, and another user may have no way to these directories.
	cmd := s.Lab.Neighbour.Command(ctx, "unshare", "--map-user=65534", "--map-group=65534", filepath.Join(program, "usr/sbin/squid"), "--foreground", "-f", config)
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && ctx.Err() == nil && exit == nil {
			t.Error(err)
		}
		if t.Failed() {
			text, _ := os.ReadFile(squidLog(s))
			t.Logf("squid: %s\n%s", out.String(), text)
		}
	})
	stage.Eventually(t, 20*time.Second, "squid listens", func() bool {
		for _, port := range []string{"3128", "3129"} {
			conn, err := s.Lab.Neighbour.Dial(t.Context(), "tcp", net.JoinHostPort(lab.NeighbourV4, port))
			if err != nil {
				return false
			}
			_ = conn.Close()
		}
		return true
	})
}

// ownEtc gives the lab's host an /etc of its own, a copy, and returns where that
// is and what puts certificates into its CA store as update-ca-certificates does.
func ownEtc(t *testing.T, s *stage.Stage) (dir string, trust func(...*authority)) {
	t.Helper()
	dir = filepath.Join(s.Lab.Dir, "etc")
	// Files come and go there while another test makes a user.
	s.Lab.Host.Run(t, "sh", "-euc", `cp -a /etc "$1/etc" || { rm -r "$1/etc"; cp -a /etc "$1/etc"; }
mount --bind "$1/etc" /etc
for file in resolv.conf hosts; do mount --bind "$1/$file" "/etc/$file"; done`, "sh", s.Lab.Dir)
	bundle := filepath.Join(dir, "ssl/certs/ca-certificates.crt")
	system, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	return dir, func(more ...*authority) {
		t.Helper()
		text := bytes.Clone(system)
		for _, ca := range more {
			text = append(text, ca.pem...)
		}
		if err := os.WriteFile(bundle+".new", text, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(bundle+".new", bundle); err != nil {
			t.Fatal(err)
		}
	}
}

// onlyBy takes from the host every way but that to its neighbours.
func onlyBy(t *testing.T, s *stage.Stage) {
	t.Helper()
	s.Lab.Host.Run(t, "ip", "-4", "route", "del", "default")
	s.Lab.Host.Run(t, "ip", "-6", "route", "del", "default")
}
