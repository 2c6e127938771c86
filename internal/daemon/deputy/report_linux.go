package deputy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"

	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/settings"
	"github.com/portolan-net/portolan/internal/system"
)

// reportFD is the deputy's end of the second pair: the deputy writes reports
// there, unasked, and reads a byte when the password is to be found out again.
const reportFD = 4

// maxReport is more than a report with long lists has.
const maxReport = 128 << 10

// Report is what the user who typed `portolan up` has set up about proxies. It
// holds passwords.
type Report struct {
	Proxies  system.Proxies `json:"proxies"`
	Password string         `json:"password,omitempty"` // what portolan.proxyPasswordCommand printed
	Problem  string         `json:"problem,omitempty"`  // why it did not
}

// String keeps the password to itself.
func (r Report) String() string { return r.Proxies.String() }

// FollowReports calls changed with each report until ctx or the deputy ends.
func (d *Deputy) FollowReports(ctx context.Context, changed func(Report)) error {
	stop := context.AfterFunc(ctx, func() { _ = d.reports.Close() })
	defer stop()
	for {
		var r Report
		text, err := readMessage(d.reports)
		if err == nil {
			err = json.Unmarshal(text, &r)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF):
			<-ctx.Done() // the deputy is gone, which the log says; what it reported stays
			return nil
		case err != nil:
			return fmt.Errorf("read report of deputy: %w", err)
		}
		changed(r)
	}
}

// AskPassword makes the deputy run the password command of the settings again; a
// report follows. A deputy that is gone does nothing.
func (d *Deputy) AskPassword() { _, _ = d.reports.Write([]byte{0}) }

func readMessage(conn *net.UnixConn) ([]byte, error) {
	buf := make([]byte, maxReport)
	n, err := conn.Read(buf)
	if err == nil && n == 0 {
		err = io.EOF
	}
	return buf[:n], err
}

// reporter writes reports.
type reporter struct {
	conn    *net.UnixConn
	source  system.ProxySource
	command func() (string, error) // the password command of the settings
	run     func(ctx context.Context, argv []string) ([]byte, error)
	log     *slog.Logger

	mu   sync.Mutex // guards what follows
	last Report
}

// report serves descriptor reportFD until the daemon's end closes.
func report(ctx context.Context, p profile.Profile, conn *net.UnixConn) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("part", "deputy")
	user, err := sessionUser(os.Getenv)
	if err != nil {
		return err
	}
	r := &reporter{
		conn: conn, log: log, run: user.run,
		source:  &system.ProxyHost{Home: user.home, Getenv: os.Getenv, Run: user.run, Log: log},
		command: func() (string, error) { return passwordCommand(p) },
	}
	return r.serve(ctx)
}

// passwordCommand reads it from the files themselves: a daemon that was taken
// over can't choose what is run.
func passwordCommand(p profile.Profile) (string, error) {
	s, err := settings.Open(settings.Files{User: p.SettingsFile(), Admin: settings.AdminFiles()})
	if err != nil {
		return "", err
	}
	return s.Snapshot().Values.ProxyPasswordCommand, nil
}

func (r *reporter) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	following.Go(func() {
		err := r.source.FollowProxies(ctx, func(p system.Proxies) {
			r.tell(func(last *Report) { last.Proxies = p })
		})
		if err != nil {
			r.log.Warn("follow this host's proxy settings", "err", err)
		}
	})
	// Which proxies there are is told without waiting for the password: until then
	// everything is direct.
	for {
		password, problem := r.password(ctx)
		r.tell(func(last *Report) { last.Password, last.Problem = password, problem })
		if _, err := readMessage(r.conn); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
	}
}

// tell changes the report and writes it. Nothing is done about a daemon that is
// gone: serve sees that.
func (r *reporter) tell(change func(*Report)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.last)
	text, err := json.Marshal(r.last)
	if err == nil && len(text) > maxReport {
		err = fmt.Errorf("%d bytes, want at most %d", len(text), maxReport)
	}
	if err == nil {
		_, err = r.conn.Write(text)
	}
	if err != nil {
		r.log.Debug("report proxies", "err", err)
	}
}
