package proxy_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// The registry of the lab's internet: login me, password word, for whom pushes.
const (
	registryName = "web.internet.test:5443"
	user, word   = "me", "the-registry's-word"
	// plainRegistryName is the same without TLS, and for everybody.
	plainRegistryName = "web.internet.test:5000"
)

// wordHash is word, as htpasswd(1) writes it.
const wordHash = "$2a$04$8mSDPJDviEK1Vz//Zi0IoOPFwK5Umn4k9L0Uh1Idu4OrP7XjzKFQ6"

// startRegistry runs two registries, whose images are the same: one with TLS, by a
// certificate of ca, and a login, and one without.
func startRegistry(t *testing.T, s *stage.Stage, ca *authority) {
	t.Helper()
	dir := filepath.Join(s.Lab.Dir, "registry")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert := ca.issue(t, "web.internet.test")
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile := write("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
	keyFile := write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	const both = "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s/images}}\n"
	s.StartRegistry(t, "5443", write("tls.yml", fmt.Sprintf(both+"http: {addr: \"%s:5443\", tls: {certificate: %s, key: %s}}\nauth: {htpasswd: {realm: lab, path: %s}}\n",
		dir, lab.WebV4, certFile, keyFile, write("htpasswd", user+":"+wordHash+"\n"))))
	s.StartRegistry(t, "5000", write("plain.yml", fmt.Sprintf(both+"http: {addr: \"%s:5000\"}\n", dir, lab.WebV4)))
}
