package soak

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
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
