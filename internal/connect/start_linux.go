package connect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/profile"
)

// Command is the hidden command of portolan that runs Run.
const Command = "connector"

// reportFD is where the connector finds the pipe of its report.
const reportFD = 3

// Report returns the file that a connector reports to.
func Report() *os.File { return os.NewFile(reportFD, "report") }

// Connect starts a connector to the machine of a profile that belongs to the user
// uid, and returns when the host is connected. It needs root. On an error nothing
// is left.
func Connect(ctx context.Context, p profile.Profile, uid int, offer api.ConnectOffer) (api.Connection, error) {
	t := Target{Profile: p, UID: uid, Link: offer.Link}
	if os.Geteuid() != 0 {
		return api.Connection{}, errors.New("connect this host: an interface and routes are root's to add; type: sudo portolan connect")
	}
	self, err := os.Executable()
	if err != nil {
		return api.Connection{}, err
	}
	text, err := json.Marshal(t)
	if err != nil {
		return api.Connection{}, err
	}
	log, err := openLog(t)
	if err != nil {
		return api.Connection{}, err
	}
	defer log.Close()
	report, theirs, err := os.Pipe()
	if err != nil {
		return api.Connection{}, err
	}
	defer report.Close()
	// Without ctx: it outlives this command.
	cmd := exec.Command(self, Command)
	cmd.Stdin, cmd.Stderr, cmd.Dir = bytes.NewReader(text), log, "/"
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return api.Connection{}, fmt.Errorf("start connector: %w", err)
	}
	connection, err := awaitReport(ctx, report)
	if err != nil {
		_ = cmd.Process.Kill() // it may have ended; the helper cleans up
		_ = cmd.Wait()
		return api.Connection{}, err
	}
	return connection, cmd.Process.Release()
}

func awaitReport(ctx context.Context, report *os.File) (api.Connection, error) {
	stop := context.AfterFunc(ctx, func() { _ = report.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var a answer
	err := json.NewDecoder(report).Decode(&a)
	switch {
	case ctx.Err() != nil:
		return a.Connection, ctx.Err()
	case err != nil:
		return a.Connection, fmt.Errorf("connector ended without a word (%w); see: portolan logs --source connect", err)
	case a.Error != "":
		return a.Connection, errors.New(a.Error)
	}
	return a.Connection, nil
}

// openLog opens connect.log as the machine's user, whose file it is to be: root
// follows no link of theirs.
func openLog(t Target) (log *os.File, err error) {
	path := filepath.Join(t.Profile.LogDir(), "connect.log")
	err = asUser(t.UID, func() error {
		log, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return log, nil
}
