package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// hostNetwork sends bytes to a port of a container on the host's network, which
// sends them back.
func hostNetwork(t testing.TB, r *soak, random *rand.Rand) (int64, error) {
	t.Helper()
	conn, err := r.s.Lab.Neighbour.Dial(t.Context(), "tcp", lab.HostV4+":7200")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(jobTime)); err != nil {
		return 0, err
	}
	n := random.Int64N(64 << 10)
	sent, err := io.ReadAll(io.LimitReader(testimage.Stream(), n))
	if err != nil {
		return 0, err
	}
	wrote := make(chan error, 1)
	go func() { _, err := conn.Write(sent); wrote <- err }()
	got := make([]byte, n)
	read, err := io.ReadFull(conn, got)
	if err != nil {
		_ = conn.Close() // ends the writer
	}
	if err := errors.Join(err, <-wrote); err != nil {
		return int64(read), err
	}
	if !bytes.Equal(got, sent) {
		return n, fmt.Errorf("%w: an echo of %d", errWrong, n)
	}
	return n, nil
}

// proxied fetches a body in a container by way of http.docker.internal:3128,
// from the published port of another.
func proxied(t testing.TB, r *soak, random *rand.Rand) (int64, error) {
	t.Helper()
	n := size(random)
	out, code := r.docker(t, "exec", "-e", "http_proxy=http://http.docker.internal:3128", "inside",
		"/bin/toolbox", "get", "http://"+published+"/bytes/"+strconv.FormatInt(n, 10))
	result, err := testimage.Parse([]byte(out))
	switch {
	case err != nil:
		return 0, fmt.Errorf("exit code %d: %w", code, err)
	case code != 0:
		return result.Bytes, fmt.Errorf("exit code %d: %s: %s", code, result.Outcome, result.Error)
	case result.Bytes != n || result.SHA256 != digest(n):
		return result.Bytes, fmt.Errorf("%w: %d of %d", errWrong, result.Bytes, n)
	}
	return n, nil
}

// agentSocket is where containers find the host's ssh-agent.
const agentSocket = "/run/host-services/ssh-auth.sock"

// startAgent runs OpenSSH's agent with one key on the host, and returns its socket.
func startAgent(t testing.TB, s *stage.Stage) string {
	t.Helper()
	dir := s.Lab.Dir
	if s.User != nil {
		dir = s.User.HomeDir
	}
	socket, key := filepath.Join(dir, "agent.sock"), filepath.Join(dir, "agent.key")
	agent := s.Command(context.WithoutCancel(t.Context()), "ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait() // it was killed
	})
	stage.Eventually(t, recovery, "ssh-agent listens", func() bool { _, err := os.Stat(socket); return err == nil })
	for _, words := range [][]string{
		{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key}, {"env", "SSH_AUTH_SOCK=" + socket, "ssh-add", "-q", key},
	} {
		if out, err := s.Command(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(words, " "), err, out)
		}
	}
	return socket
}

// sshAgent lists in a container the keys that the host's agent has.
func sshAgent(t testing.TB, r *soak, _ *rand.Rand) (int64, error) {
	t.Helper()
	got, err := r.exec(t, "ssh-keys", agentSocket)
	if err == nil && (got.Count != 1 || got.SHA256 != r.keys.SHA256) {
		err = fmt.Errorf("%w: %d keys, %d bytes", errWrong, got.Count, got.Bytes)
	}
	return got.Bytes, err
}
