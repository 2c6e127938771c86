package soak

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// errWrong is an answer that came whole and is not what it must be.
var errWrong = errors.New("wrong bytes")

// jobTime bounds one job; more means that something hangs.
const jobTime = 60 * time.Second

// size is what a body may be: most are small, some are large.
func size(random *rand.Rand) int64 {
	if random.IntN(10) == 0 {
		return random.Int64N(32 << 20)
	}
	return random.Int64N(64 << 10)
}

// request makes one HTTP request of the neighbour over a new connection.
func request(t testing.TB, s *stage.Stage, method, addr, path string, body io.Reader, size int64) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, "http://"+addr+path, body)
	if err != nil {
		return nil, err
	}
	r.ContentLength = size
	client := http.Client{Timeout: jobTime, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return s.Lab.Neighbour.Dial(ctx, "tcp", addr)
		},
	}}
	return client.Do(r)
}

// digest is that of the first n bytes of the test stream.
func digest(n int64) string {
	sum := sha256.New()
	_, _ = io.CopyN(sum, testimage.Stream(), n) // never ends
	return hex.EncodeToString(sum.Sum(nil))
}

const published = lab.HostV4 + ":8000"

// publishedDown fetches a body from a published port.
func publishedDown(t testing.TB, r *soak, random *rand.Rand) (int64, error) {
	t.Helper()
	n := size(random)
	response, err := request(t, r.s, http.MethodGet, published, "/bytes/"+strconv.FormatInt(n, 10), http.NoBody, 0)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	sum := sha256.New()
	got, err := io.Copy(sum, response.Body)
	if err != nil {
		return got, err // short, and said so
	}
	if got != n || hex.EncodeToString(sum.Sum(nil)) != digest(n) {
		return got, fmt.Errorf("%w: %d of %d", errWrong, got, n)
	}
	return got, nil
}

// publishedUp sends a body to a published port, which answers with its digest.
func publishedUp(t testing.TB, r *soak, random *rand.Rand) (int64, error) {
	t.Helper()
	n := size(random)
	response, err := request(t, r.s, http.MethodPost, published, "/sha256", io.LimitReader(testimage.Stream(), n), n)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return 0, errors.Join(err, errors.New(response.Status))
	}
	if strings.TrimSpace(string(answer)) != digest(n) {
		return n, fmt.Errorf("%w: the digest of %d bytes is %q", errWrong, n, answer)
	}
	return n, nil
}

// datagramTries is how often a datagram is sent again: UDP may lose one.
const datagramTries = 3

// clientLife is how long one UDP client sends before another takes its place.
const clientLife = 30 * time.Second

// publishedUDP is a job that sends datagrams to a published port, which sends
// them back.
func publishedUDP() func(testing.TB, *soak, *rand.Rand) (int64, error) {
	var conn net.Conn
	var since time.Time
	return func(t testing.TB, r *soak, random *rand.Rand) (n int64, err error) {
		t.Helper()
		if conn == nil || time.Since(since) > clientLife {
			if conn, err = r.s.Lab.Neighbour.Dial(t.Context(), "udp", lab.HostV4+":7000"); err != nil {
				return 0, err
			}
			since = time.Now()
			t.Cleanup(func() { _ = conn.Close() })
		}
		return datagram(conn, random)
	}
}

// tagSize is how much of a datagram says which one it is.
const tagSize = 8

// datagram sends one and wants it back; older ones may come late or twice.
func datagram(conn net.Conn, random *rand.Rand) (n int64, err error) {
	sent := make([]byte, tagSize+random.IntN(60000))
	for i := range sent {
		sent[i] = byte(random.Uint32())
	}
	for range datagramTries {
		if err = conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return 0, err
		}
		if _, err = conn.Write(sent); err != nil {
			continue
		}
		if err = awaitEcho(conn, sent); err == nil || errors.Is(err, errWrong) {
			return int64(len(sent)), err
		}
	}
	return 0, err
}

// awaitEcho reads until the datagram with the tag of sent comes.
func awaitEcho(conn net.Conn, sent []byte) error {
	for got := make([]byte, 1<<16); ; {
		n, err := conn.Read(got)
		switch {
		case err != nil:
			return err
		case n < tagSize || !bytes.Equal(got[:tagSize], sent[:tagSize]):
			continue
		case !bytes.Equal(got[:n], sent):
			return fmt.Errorf("%w: %d of %d", errWrong, n, len(sent))
		}
		return nil
	}
}

const streams = lab.EmptyV4 + ":9000"

// receive runs, on the internet, the server that answers a stream with its digest.
func receive(t testing.TB, s *stage.Stage) {
	t.Helper()
	listener, err := s.Lab.Internet.Listen("tcp", netip.MustParseAddrPort(streams).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() { // ends with the listener
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { // ends with its connection
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(jobTime))
				sum := sha256.New()
				if _, err := io.Copy(sum, conn); err == nil {
					_, _ = io.WriteString(conn, hex.EncodeToString(sum.Sum(nil)))
				}
			}()
		}
	}()
}

// streamOut sends a stream out of a container.
func streamOut(t testing.TB, r *soak, random *rand.Rand) (int64, error) {
	t.Helper()
	n := size(random)
	result, err := r.exec(t, "stream-send", streams, "-bytes", strconv.FormatInt(n, 10), "-timeout", "60s")
	if err == nil && (result.Bytes != n || result.SHA256 != digest(n)) {
		err = fmt.Errorf("%w: %d of %d bytes", errWrong, result.Bytes, n)
	}
	return result.Bytes, err
}

// toolbox is a job that runs one command in a container.
func toolbox(args ...string) func(testing.TB, *soak, *rand.Rand) (int64, error) {
	return func(t testing.TB, r *soak, _ *rand.Rand) (int64, error) {
		t.Helper()
		result, err := r.exec(t, args...)
		return result.Bytes, err
	}
}

// dockerTime bounds one docker command. An exec whose end containerd saw while it
// was killed hangs in the engine: its event is lost.
const dockerTime = 30 * time.Second

// docker runs the docker CLI and returns both outputs and the exit code, -1 for
// one that took too long.
func (r *soak) docker(t testing.TB, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), dockerTime)
	defer cancel()
	cmd := r.s.Command(ctx, "docker", args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return fmt.Sprintf("%s%v", out, err), -1
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// exec runs a command of the toolbox in the container "inside".
func (r *soak) exec(t testing.TB, args ...string) (testimage.Result, error) {
	t.Helper()
	out, code := r.docker(t, append([]string{"exec", "inside", "/bin/toolbox"}, args...)...)
	result, err := testimage.Parse([]byte(out))
	switch {
	case err != nil:
		return result, fmt.Errorf("exit code %d: %w", code, err)
	case result.Outcome == testimage.Mismatch:
		return result, fmt.Errorf("%w: %s", errWrong, result.Error)
	case code != 0:
		return result, fmt.Errorf("exit code %d: %s: %s", code, result.Outcome, result.Error)
	}
	return result, nil
}

// churn runs a container with a port, fetches from it, and removes it.
func churn(t testing.TB, r *soak, random *rand.Rand) (got int64, err error) {
	t.Helper()
	r.making.RLock()
	defer r.making.RUnlock()
	name := fmt.Sprintf("churn-%x", random.Uint64())
	port := 20000 + random.IntN(1000)
	addr := fmt.Sprintf("%s:%d", lab.HostV4, port)
	defer func() {
		if removeErr := r.remove(t, name); err == nil {
			err = removeErr
		}
	}()
	if out, code := r.docker(t, "run", "-d", "--name", name, "-p", fmt.Sprintf("%d:80", port), testimage.Name, "web"); code != 0 {
		return 0, fmt.Errorf("run: exit code %d: %s", code, out)
	}
	const body, patience = 100_000, 10 * time.Second
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // until the server in it listens
		response, fetchErr := request(t, r.s, http.MethodGet, addr, "/bytes/"+strconv.Itoa(body), http.NoBody, 0)
		if fetchErr != nil {
			if time.Now().After(end) {
				return 0, fetchErr
			}
			continue
		}
		defer response.Body.Close()
		sum := sha256.New()
		if got, err = io.Copy(sum, response.Body); err != nil {
			return got, err
		}
		if hex.EncodeToString(sum.Sum(nil)) != digest(body) {
			return got, fmt.Errorf("%w: %d of %d", errWrong, got, body)
		}
		return got, nil
	}
}

// removeAll removes containers whose maker had given up before they were there.
func (r *soak) removeAll(t testing.TB) {
	t.Helper()
	if ids := strings.Fields(r.s.Docker(t, "ps", "-aq", "--filter", "name=churn-")); len(ids) > 0 {
		t.Logf("%d containers came after their maker had given up", len(ids))
		r.s.Docker(t, append([]string{"rm", "-f"}, ids...)...)
	}
}

// remove tries until the container is gone: it must not stay because the engine
// was away.
func (r *soak) remove(t testing.TB, name string) error {
	t.Helper()
	for end := time.Now().Add(recovery); ; time.Sleep(100 * time.Millisecond) {
		out, code := r.docker(t, "rm", "-f", name)
		if code == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("remove %s: exit code %d: %s", name, code, out)
		}
	}
}
