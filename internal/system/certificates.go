package system

import (
	"os"
	"path/filepath"
)

// CertificateFiles are the places of a system's CA bundle, of which crypto/x509
// takes the first.
func CertificateFiles() []string {
	return []string{
		"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Arch
		"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora
		"/etc/ssl/ca-bundle.pem",                            // openSUSE
		"/etc/pki/tls/cacert.pem",                           // OpenELEC
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL
		"/etc/ssl/cert.pem",                                 // Alpine
	}
}

// CertificateBundle is this system's CA bundle, all links followed, so that it can
// be mounted elsewhere; "" for none.
func CertificateBundle() string {
	for _, path := range CertificateFiles() {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if resolved, err := filepath.EvalSymlinks(path); err == nil {
			return resolved
		}
	}
	return ""
}

// CertificateVariables name a CA bundle to OpenSSL, Go and Ruby, to curl, Python's
// requests and pip, Node.js, git and the AWS clients.
func CertificateVariables(path string) []string {
	var all []string
	for _, name := range []string{"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE"} {
		all = append(all, name+"="+path)
	}
	return all
}
