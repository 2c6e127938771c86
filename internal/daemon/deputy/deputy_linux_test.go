package deputy

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/portolan-net/portolan/internal/machine"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/router"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// served is a deputy whose process is a goroutine. What it returns ends with
// the test.
func served(t *testing.T, d duties) (*Deputy, chan error) {
	t.Helper()
	conn, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	other, err := connOf(theirs)
	if err != nil {
		t.Fatal(err)
	}
	deputy, result := &Deputy{conn: conn, ended: make(chan struct{})}, make(chan error, 1)
	go func() {
		defer close(deputy.ended)
		result <- errors.Join(serve(t.Context(), other, d), other.Close())
	}()
	t.Cleanup(deputy.Close)
	return deputy, result
}

var wanted = portolan.Binding{Proto: portolan.TCP, Host: netip.MustParseAddrPort("0.0.0.0:80")}

func TestHolder(t *testing.T) {
	deputy, result := served(t, duties{holder: func(ctx context.Context, b portolan.Binding) string {
		if _, ok := ctx.Deadline(); !ok {
			return "for ever"
		}
		return ": held by the holder of " + b.Host.String()
	}})
	for range 2 {
		if got := deputy.Holder(t.Context(), wanted); got != ": held by the holder of 0.0.0.0:80" {
			t.Errorf("Holder = %q", got)
		}
	}
	deputy.Close()
	if err := <-result; err != nil {
		t.Errorf("the deputy ended with %v", err)
	}
	if got := deputy.Holder(t.Context(), wanted); got != "" {
		t.Errorf("Holder without a deputy = %q", got)
	}
}

// A helper's start gets the descriptors in their order.
func TestResume(t *testing.T) {
	given := machine.Record{Version: "v", Init: machine.Process{PID: 7, StartTicks: 9}}
	deputy, _ := served(t, duties{resume: func(_ context.Context, r machine.Record, estate *router.Estate) (machine.Record, error) {
		if r != given {
			return r, errors.New("another record")
		}
		text := ""
		for _, file := range append([]*os.File{estate.Network, estate.User}, estate.Router...) {
			part, err := io.ReadAll(file)
			if err != nil {
				return r, err
			}
			text += string(part)
		}
		if text != "abcdefg" {
			return r, errors.New("descriptors " + text)
		}
		r.Helper.PID = 8
		return r, nil
	}})
	got, err := deputy.Resume(t.Context(), given, estate(t, "abcdefg"))
	want := given
	want.Helper.PID = 8
	if err != nil || got != want {
		t.Errorf("Resume = %+v, %v", got, err)
	}
	if got, err := deputy.Resume(t.Context(), machine.Record{}, estate(t, "abcdefg")); err == nil || err.Error() != "another record" || got != (machine.Record{}) {
		t.Errorf("Resume that fails = %+v, %v", got, err)
	}
	if _, err := deputy.Resume(t.Context(), given, estate(t, "abc")); err == nil || !strings.Contains(err.Error(), "want 7") {
		t.Errorf("Resume with too few descriptors: %v", err)
	}
}

// estate has one file with each letter.
func estate(t *testing.T, letters string) *router.Estate {
	t.Helper()
	var files []*os.File
	for _, letter := range letters {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		if _, err := w.WriteString(string(letter)); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		files = append(files, r)
	}
	return &router.Estate{Network: files[0], User: files[1], Router: files[2:]}
}

// A question that is given up leaves no answer for the next one.
func TestGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	given := make(chan struct{})
	deputy, _ := served(t, duties{holder: func(_ context.Context, b portolan.Binding) string {
		if b.Host == wanted.Host {
			cancel()
			<-given
		}
		return b.Host.String()
	}})
	if got := deputy.Holder(ctx, wanted); got != "" {
		t.Errorf("Holder = %q", got)
	}
	close(given)
	next := wanted
	next.Host = netip.MustParseAddrPort("[::1]:443")
	if got := deputy.Holder(t.Context(), next); got != "[::1]:443" {
		t.Errorf("the next Holder = %q", got)
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, text := range []string{
		`{}`, `{"holder": {}}`, `{"resume": {}}`, `{"holder": {}, "resume": {}}`, `{"holder": {"proto": 1, "host": "[::]:80"}}`, `x`,
		`{"connect": "/a"}`, `{"listen": "/a"}`, `{"unlisten": "/a"}`, `{"listen": "/a", "unlisten": "/a"}`, `{"names": "/a", "resume": {}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		q, err := parseRequest(text)
		paths := 0
		for _, path := range []string{q.Connect, q.Listen, q.Unlisten, q.Names} {
			if path != "" {
				paths++
			}
		}
		if err == nil && (paths > 1 || (q.Holder != nil) == (q.Resume != nil) && paths == 0 || paths == 1 && (q.Holder != nil || q.Resume != nil)) {
			t.Errorf("parseRequest(%q) = %+v", text, q)
		}
	})
}
