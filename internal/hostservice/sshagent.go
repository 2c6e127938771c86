package hostservice

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
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

// The messages by which CountKeys asks; draft-ietf-sshm-ssh-agent, sections 3.1 and 3.5.
const (
	agentFailure      = 5
	requestIdentities = 11
	identitiesAnswer  = 12
)

// maxAnswer is what OpenSSH takes from an agent at most, in bytes.
const maxAnswer = 256 << 10

// AgentTime is how long an agent may take to list its keys, for which it asks
// nobody. What it does then, it may ask its user about: a signature takes as long
// as somebody looks for the hardware key.
const AgentTime = 3 * time.Second

// CountKeys asks an ssh-agent how many keys it has, and reads the whole answer, so
// that the connection can be used as if nothing had been asked. An agent that is
// locked has none. One that does not answer within AgentTime is an error.
func CountKeys(agent net.Conn) (keys int, err error) {
	if err = agent.SetDeadline(time.Now().Add(AgentTime)); err == nil {
		keys, err = countKeys(agent)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("it accepts, but does not answer within %s", AgentTime)
	case err == nil:
		err = agent.SetDeadline(time.Time{})
	}
	if err != nil {
		return 0, fmt.Errorf("ask for keys: %w", err)
	}
	return keys, nil
}

func countKeys(agent io.ReadWriter) (int, error) {
	if _, err := agent.Write([]byte{0, 0, 0, 1, requestIdentities}); err != nil {
		return 0, err
	}
	var head [5]byte // length of what follows, type
	if _, err := io.ReadFull(agent, head[:]); err != nil {
		return 0, err
	}
	length, kind := binary.BigEndian.Uint32(head[:]), head[4]
	if length == 1 && kind == agentFailure {
		return 0, nil
	}
	if kind != identitiesAnswer || length < 5 || length > maxAnswer {
		return 0, errors.New("the answer is not an ssh-agent's")
	}
	body := make([]byte, length-1) // number of keys, keys
	if _, err := io.ReadFull(agent, body); err != nil {
		return 0, err
	}
	return int(binary.BigEndian.Uint32(body)), nil
}
