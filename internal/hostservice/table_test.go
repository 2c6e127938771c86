package hostservice

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/portolan-net/portolan/internal/datapath"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is a Far that remembers.
type machine struct {
	listeners []Endpoint
	refuse    error
}

func (m *machine) SetListeners(_ context.Context, want []Endpoint) error {
	if m.refuse != nil {
		return m.refuse
	}
	m.listeners = want
	return nil
}

func (m *machine) CheckTarget(_ context.Context, to Endpoint) error {
	if to.Address == "/run/docker.sock" {
		return ErrForbidden
	}
	return nil
}

// newTable has listeners on the host that echo.
func newTable(t *testing.T, dir string, far Far) *Table {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	table := &Table{
		File: filepath.Join(dir, "forwards.json"), Far: far, Log: log,
		Places: Places{Dir: dir},
		Check: func(_ context.Context, to Endpoint) error {
			if to.Address == "/run/docker.sock" {
				return ErrForbidden
			}
			return nil
		},
		Write: func(path string, text []byte) error { return os.WriteFile(path, text, 0o600) },
		Host: &Listeners{
			Log: log,
			Open: func(e Endpoint) (net.Listener, error) {
				return new(net.ListenConfig).Listen(t.Context(), e.Network, e.Address)
			},
			Gone: func(Endpoint) {},
			Serve: func(ctx context.Context, _ Endpoint, conn datapath.Conn) {
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				defer stop()
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			},
		},
	}
	if err := table.Load(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(table.Host.Close)
	return table
}

func TestTable(t *testing.T) {
	dir, far := t.TempDir(), &machine{}
	table := newTable(t, dir, far)
	ctx := t.Context()
	db := Forward{Machine, Endpoint{"unix", MachineDir + "/db"}, Endpoint{"unix", "/srv/db"}}
	local := Forward{Host, Endpoint{"unix", filepath.Join(dir, "l")}, Endpoint{"unix", "/x"}}
	for _, f := range []Forward{db, local} {
		if err := table.Add(ctx, ctx, f); err != nil {
			t.Fatal(err)
		}
		if err := table.Add(ctx, ctx, f); err == nil || !strings.Contains(err.Error(), "already") {
			t.Errorf("added twice: %v", err)
		}
	}
	for _, f := range []Forward{
		{Machine, Endpoint{"unix", MachineDir + "/e"}, Endpoint{"unix", "/run/docker.sock"}},
		{Host, Endpoint{"unix", filepath.Join(dir, "e")}, Endpoint{"unix", "/run/docker.sock"}},
	} {
		if err := table.Add(ctx, ctx, f); !errors.Is(err, ErrForbidden) {
			t.Errorf("%v: %v", f, err)
		}
	}
	if !slices.Equal(far.listeners, []Endpoint{db.Listen}) {
		t.Errorf("the machine listens on %v", far.listeners)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", local.Listen.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Errorf("a connection of the host's: %v", err)
	}

	again := newTable(t, dir, far)
	if list, _ := again.List(); !slices.Equal(list, []Forward{db, local}) {
		t.Errorf("kept: %v", list)
	}
	if err := table.Remove(ctx, ctx, Host, local.Listen); err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a connection goes on after its forward was removed")
	}
	if err := table.Remove(ctx, ctx, Host, local.Listen); !errors.Is(err, ErrUnknown) {
		t.Errorf("removed twice: %v", err)
	}
}

// What can't be put in force is not kept.
func TestTableTakesBack(t *testing.T) {
	dir, far := t.TempDir(), &machine{refuse: errors.New("no agent")}
	table := newTable(t, dir, far)
	bad := []Forward{
		{Machine, Endpoint{"unix", MachineDir + "/db"}, Endpoint{"unix", "/srv/db"}},
		{Host, Endpoint{"unix", filepath.Join(dir, "none", "l")}, Endpoint{"unix", "/x"}},
	}
	for _, f := range bad {
		if err := table.Add(t.Context(), t.Context(), f); err == nil {
			t.Errorf("%v is added", f)
		}
	}
	if list, _ := table.List(); len(list) > 0 {
		t.Errorf("listed: %v", list)
	}
	if _, err := os.Stat(table.File); err == nil {
		t.Error("kept in the file")
	}
}

// A bad file is named, with what is wrong; the list stays as it was, and so does
// the file, until somebody repairs it.
func TestBadFile(t *testing.T) {
	dir, far := t.TempDir(), &machine{}
	ctx := t.Context()
	kept := Forward{Machine, Endpoint{"unix", MachineDir + "/db"}, Endpoint{"unix", "/srv/db"}}
	other := Forward{Machine, Endpoint{"unix", MachineDir + "/other"}, Endpoint{"unix", "/srv/other"}}
	if err := newTable(t, dir, far).Add(ctx, ctx, kept); err != nil {
		t.Fatal(err)
	}
	const good = `{"from":"machine","listen":"unix:/run/host-services/db","to":"unix:/srv/db"}`
	for text, want := range map[string]string{
		`[`:                                      "unexpected end of JSON",
		`{}`:                                     "cannot unmarshal",
		`[{}]`:                                   "forward 1: want listen and to",
		`[{"from":"machine","listen":"unix:a"}]`: "forward 1: want listen and to",
		`[{"listen":"unix:a","to":"unix:/b"}]`:   "forward 1: --from",
		`[` + good + `,{"from":"here","listen":"unix:a","to":"unix:/b"}]`: "forward 2: --from \"here\"",
		`[{"from":"machine","listen":"udp:a","to":"unix:/b"}]`:            `"udp:a": want unix:PATH`,
		`[{"from":"machine","listen":"tcp:0.0.0.0:5","to":"unix:/b"}]`:    "127.0.0.1",
		`[{"from":"machine","listen":"unix:/etc/a","to":"unix:/b"}]`:      "below /run",
		`[` + good + `,` + good + `]`:                                     "forward 2: listen on unix:/run/host-services/db: another forward does",
		`[` + strings.Repeat(good+",", maxForwards) + good + `]`:          "101 forwards: want 100 at most",
		`[{"from":"machine","listen":"unix:a","to":"tcp:127.0.0.1:7"},{"from":"host","listen":"tcp:127.0.0.1:7","to":"unix:/run/host-services/a"}]`: "without end",
	} {
		table := newTable(t, t.TempDir(), far)
		table.File = filepath.Join(dir, "forwards.json")
		if err := os.WriteFile(table.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := table.Load()
		if err == nil || !strings.Contains(err.Error(), table.File) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		if list, _ := table.List(); !slices.Equal(list, []Forward{kept}) {
			t.Errorf("%s: in force: %v", text, list)
		}
		if err := table.Add(ctx, ctx, other); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: added: %v", text, err)
		}
		if err := table.Remove(ctx, ctx, Machine, kept.Listen); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: removed: %v", text, err)
		}
		if now, err := os.ReadFile(table.File); err != nil || string(now) != text {
			t.Errorf("%s: the file becomes %s, %v", text, now, err)
		}
	}
	table := newTable(t, t.TempDir(), far)
	table.File = filepath.Join(dir, "forwards.json")
	if err := table.Load(); err == nil || !errors.Is(table.Bad(), err) {
		t.Errorf("the bad file: %v, told: %v", err, table.Bad())
	}
	if err := os.WriteFile(table.File, []byte(`[`+good+`]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := table.Add(ctx, ctx, other); err != nil || table.Bad() != nil {
		t.Errorf("the repaired file: %v, %v", err, table.Bad())
	}
	if list, _ := table.List(); !slices.Equal(list, []Forward{kept, other}) || !slices.Equal(far.listeners, []Endpoint{kept.Listen, other.Listen}) {
		t.Errorf("after the repair: %v, the machine has %v", list, far.listeners)
	}
}

// The file that somebody has repaired counts without being asked for.
func TestRepairedFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, far := t.TempDir(), &machine{}
		table := newTable(t, dir, far)
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(table.File, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(`[`)
		if err := table.Load(); err == nil {
			t.Fatal("the bad file is read")
		}
		ctx, stop := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer stop()
		go func() { _ = table.Run(ctx) }() // it returns no error
		time.Sleep(2 * retryPause)
		if table.Bad() == nil {
			t.Error("the bad file is taken for good")
		}
		write(`[{"from":"machine","listen":"unix:a","to":"unix:/b"}]`)
		time.Sleep(2 * retryPause)
		listens := []Endpoint{{"unix", MachineDir + "/a"}}
		if err := table.Bad(); err != nil || !slices.Equal(table.Listens(Machine), listens) || !slices.Equal(far.listeners, listens) {
			t.Errorf("the repaired file: %v, listed: %v, the machine has %v", err, table.Listens(Machine), far.listeners)
		}
	})
}

// What is in force can be written and read again.
func FuzzList(f *testing.F) {
	for _, seed := range []string{
		`[{"from":"machine","listen":"unix:a","to":"tcp:127.0.0.1:7"},{"from":"host","listen":"tcp:[::1]:7","to":"unix:/a"}]`,
		`[{"from":"host","listen":"unix:/a/b","to":"unix:/b"},{"from":"host","listen":"unix:/a/b","to":"unix:/b"}]`, `null`, `[{}]`, `[`,
		`[{"from":"host","listen":"unix:00"}]`, `[{"from":"machine","to":"unix:/00"}]`,
	} {
		f.Add([]byte(seed))
	}
	table := &Table{Places: places}
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := table.parse(text)
		if err != nil {
			return
		}
		written, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := table.parse(written); err != nil || !slices.Equal(again, list) {
			t.Errorf("%s is %v, and that is %v, %v", text, list, again, err)
		}
	})
}
