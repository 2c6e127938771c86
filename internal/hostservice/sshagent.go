package hostservice

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// NoAgent as the chosen path closes the ssh-agent to containers.
const NoAgent = "none"

// Candidate is a place where the user's ssh-agent may be.
type Candidate struct {
	Path   string
	Source string // what named it, for people
}

// Environment is where agents are looked for without a choice.
type Environment struct {
	AuthSock    string   // SSH_AUTH_SOCK of whoever ran `portolan up`
	RuntimeDirs []string // XDG_RUNTIME_DIR, and that of a user who used sudo
}

// ReadEnvironment reads an environment by getenv, for the user of that id.
func ReadEnvironment(getenv func(string) string, uid int) Environment {
	e := Environment{AuthSock: getenv("SSH_AUTH_SOCK")}
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		e.RuntimeDirs = append(e.RuntimeDirs, dir)
	} else {
		e.RuntimeDirs = append(e.RuntimeDirs, fmt.Sprintf("/run/user/%d", uid))
	}
	if sudo := getenv("SUDO_UID"); uid == 0 && sudo != "" && !strings.Contains(sudo, "/") {
		e.RuntimeDirs = append(e.RuntimeDirs, "/run/user/"+sudo)
	}
	return e
}

// usual are the sockets of agents in a user's runtime directory: OpenSSH's as
// started by systemd (of Debian, of Arch), GNOME's gcr and its predecessor, GnuPG's.
var usual = []string{"openssh_agent", "ssh-agent.socket", "gcr/ssh", "keyring/ssh", "gnupg/S.gpg-agent.ssh"}

// Candidates are the places to try, in order: what was chosen, and nothing else;
// without a choice SSH_AUTH_SOCK, then the usual places.
func (e Environment) Candidates(chosen string) []Candidate {
	switch chosen {
	case NoAgent:
		return nil
	case "":
	default:
		return []Candidate{{chosen, "setting"}}
	}
	var found []Candidate
	if filepath.IsAbs(e.AuthSock) {
		found = append(found, Candidate{e.AuthSock, "SSH_AUTH_SOCK"})
	}
	for _, dir := range e.RuntimeDirs {
		for _, name := range usual {
			if path := filepath.Join(dir, name); path != e.AuthSock {
				found = append(found, Candidate{path, "usual place"})
			}
		}
	}
	return found
}

// The two messages by which CountKeys asks; draft-ietf-sshm-ssh-agent, section 3.5.
const (
	requestIdentities = 11
	identitiesAnswer  = 12
)

// CountKeys asks an ssh-agent how many keys it has.
func CountKeys(agent io.ReadWriter) (int, error) {
	if _, err := agent.Write([]byte{0, 0, 0, 1, requestIdentities}); err != nil {
		return 0, fmt.Errorf("ask for keys: %w", err)
	}
	var head [9]byte // length, type, number of keys
	if _, err := io.ReadFull(agent, head[:]); err != nil {
		return 0, fmt.Errorf("ask for keys: %w", err)
	}
	if head[4] != identitiesAnswer {
		return 0, errors.New("ask for keys: the answer is not an ssh-agent's")
	}
	return int(binary.BigEndian.Uint32(head[5:])), nil
}
