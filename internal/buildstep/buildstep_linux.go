package buildstep

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/system"
)

// Name is what the program is called that stands in for runc.
const Name = "build-runc"

// certificatesInStep is where a step finds the certificates.
const certificatesInStep = "/dev/portolan/ca-certificates.crt"

// Run becomes runc with args. A step that is about to run is shown the CA bundle
// first, unless that is "".
func Run(args []string, certificates string) error {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return fmt.Errorf("find runc: %w", err)
	}
	if dir := directory(args); dir != "" && certificates != "" {
		if err := extend(filepath.Join(dir, "config.json"), certificates); err != nil {
			return fmt.Errorf("show a build's step the host's CA certificates: %w", err)
		}
	}
	return unix.Exec(runc, append([]string{runc}, args...), os.Environ())
}

// directory is where `runc run` or `runc create` finds a step's config.json, ""
// for other commands.
func directory(args []string) string {
	starts := slices.ContainsFunc(args, func(arg string) bool { return arg == "run" || arg == "create" })
	at := slices.Index(args, "--bundle")
	if !starts || at < 0 || at+1 == len(args) {
		return ""
	}
	return args[at+1]
}

// extend adds the certificates to the step that path describes.
func extend(path, certificates string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if text, err = extended(text, certificates); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return os.WriteFile(path, text, 0o600)
}

// mount is one of a step's, as far as we are concerned.
type mount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options"`
}

// extended is a step's description with the certificates. What is not known here
// stays as it is.
func extended(text []byte, certificates string) ([]byte, error) {
	var step, process map[string]json.RawMessage
	var mounts []json.RawMessage
	var env []string
	err := errors.Join(json.Unmarshal(text, &step), json.Unmarshal(step["process"], &process))
	if err == nil && process == nil {
		err = errors.New("process: want an object")
	}
	if err == nil && step["mounts"] != nil {
		err = json.Unmarshal(step["mounts"], &mounts)
	}
	if err == nil && process["env"] != nil {
		err = json.Unmarshal(process["env"], &env)
	}
	if err != nil {
		return nil, err
	}
	if device, err := mountAt(mounts, "/dev"); err != nil || device.Type != "tmpfs" {
		return text, err
	}
	more, err := json.Marshal(mount{certificatesInStep, "bind", certificates, []string{"nosuid", "noexec", "nodev", "rbind", "ro"}})
	if err != nil {
		return nil, err
	}
	if step["mounts"], err = json.Marshal(append(mounts, more)); err != nil {
		return nil, err
	}
	if process["env"], err = json.Marshal(withVariables(env)); err != nil {
		return nil, err
	}
	if step["process"], err = json.Marshal(process); err != nil {
		return nil, err
	}
	return json.Marshal(step)
}

// mountAt is the last mount on a directory, which hides those before.
func mountAt(mounts []json.RawMessage, dir string) (last mount, err error) {
	for _, text := range mounts {
		var m mount
		if err := json.Unmarshal(text, &m); err != nil {
			return last, err
		}
		if filepath.Clean(m.Destination) == dir {
			last = m
		}
	}
	return last, nil
}

// withVariables adds what names the certificates and is not set by the step or
// its image.
func withVariables(env []string) []string {
	for _, variable := range system.CertificateVariables(certificatesInStep) {
		name, _, _ := strings.Cut(variable, "=")
		if !slices.ContainsFunc(env, func(own string) bool { return strings.HasPrefix(own, name+"=") }) {
			env = append(env, variable)
		}
	}
	return env
}
