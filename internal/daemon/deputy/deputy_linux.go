package deputy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/machine"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/router"
	"github.com/portolan-net/portolan/internal/spec"
)

// Command is the hidden command of portolan that runs Run.
const Command = "deputy"

// socketFD is the deputy's end.
const socketFD = 3

// request asks for one thing.
type request struct {
	ID       uint64            `json:"id"`                 // returned with the answer
	Holder   *portolan.Binding `json:"holder,omitempty"`   // who holds the port that it wants
	Resume   *machine.Record   `json:"resume,omitempty"`   // start a helper for this machine
	Connect  string            `json:"connect,omitempty"`  // connect to the unix socket at this path
	Listen   string            `json:"listen,omitempty"`   // make a unix socket at this path
	Unlisten string            `json:"unlisten,omitempty"` // remove one that was made so
	Names    string            `json:"names,omitempty"`    // open this name file of the host
}

type answer struct {
	ID     uint64         `json:"id"`
	Holder string         `json:"holder,omitempty"`
	Record machine.Record `json:"record,omitzero"`
	Error  string         `json:"error,omitempty"`

	file *os.File // the connection, listener or file that was asked for
}

// maxMessage is far more than any message has.
const maxMessage = 16 << 10

// Deputy is the daemon's side. Its methods are safe for concurrent use.
type Deputy struct {
	process *exec.Cmd
	ended   chan struct{}
	reports *net.UnixConn // see Report; nil in tests of the rest

	mu     sync.Mutex // one question at a time; guards the two below
	conn   *net.UnixConn
	lastID uint64
}

// Start starts the process for the machine of cfg. It needs to be called before
// the daemon confines itself.
func Start(cfg spec.Machine, log *slog.Logger) (*Deputy, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	conn, theirs, err := pair()
	if err != nil {
		return nil, fmt.Errorf("start deputy: %w", err)
	}
	reports, theirReports, err := pair()
	if err != nil {
		return nil, fmt.Errorf("start deputy: %w", errors.Join(err, conn.Close(), theirs.Close()))
	}
	cmd := exec.Command(self, Command)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), os.Stderr
	cmd.ExtraFiles = []*os.File{theirs, theirReports}    // socketFD, reportFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's Ctrl-C is the daemon's business
	err = cmd.Start()
	_, _ = theirs.Close(), theirReports.Close()
	if err != nil {
		_, _ = conn.Close(), reports.Close()
		return nil, fmt.Errorf("start deputy: %w", err)
	}
	d := &Deputy{process: cmd, conn: conn, reports: reports, ended: make(chan struct{})}
	go func() {
		defer close(d.ended)
		if err := cmd.Wait(); err != nil {
			log.Warn("deputy died; until the next daemon no port's holder is named and no helper is started again", "err", err)
		}
	}()
	return d, nil
}

// pair returns two ends, neither of which a child inherits by itself.
func pair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs := os.NewFile(uintptr(fds[1]), "deputy")
	conn, err := connOf(os.NewFile(uintptr(fds[0]), "daemon"))
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}

// connOf takes over file.
func connOf(file *os.File) (*net.UnixConn, error) {
	conn, err := net.FileConn(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("deputy's descriptor is no unix socket"), conn.Close())
	}
	return unixConn, nil
}

// Close ends the process and returns when it has ended.
func (d *Deputy) Close() {
	_ = d.conn.Close()
	if d.reports != nil {
		_ = d.reports.Close()
	}
	<-d.ended
}

// Holder says who holds the port that b wants, as the end of an error text; ""
// when that can't be found out.
func (d *Deputy) Holder(ctx context.Context, b portolan.Binding) string {
	a, err := d.ask(ctx, request{Holder: &b})
	if err != nil {
		return ""
	}
	return a.Holder
}

// Resume is machine.Resume.
func (d *Deputy) Resume(ctx context.Context, r machine.Record, estate *router.Estate) (machine.Record, error) {
	files := append([]*os.File{estate.Network, estate.User}, estate.Router...)
	a, err := d.ask(ctx, request{Resume: &r}, files...)
	if err != nil {
		return r, err
	}
	return a.Record, nil
}

// Connect is hostservice.ConnectUnix for a socket that root alone may use with
// its capabilities: that of another user.
func (d *Deputy) Connect(ctx context.Context, path string) (*os.File, error) {
	a, err := d.ask(ctx, request{Connect: path})
	if err == nil && a.file == nil {
		err = fmt.Errorf("connect to %s: the deputy sent no connection", path)
	}
	return a.file, err
}

// Listen makes a unix socket for a forward, anywhere. Its file is removed by
// Unlisten, and when the deputy ends.
func (d *Deputy) Listen(ctx context.Context, path string) (*net.UnixListener, error) {
	a, err := d.ask(ctx, request{Listen: path})
	if err != nil {
		return nil, err
	}
	if a.file == nil {
		return nil, fmt.Errorf("listen on %s: the deputy sent no listener", path)
	}
	listener, err := net.FileListener(a.file)
	if err = errors.Join(err, a.file.Close()); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	unixListener, ok := listener.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listen on %s: got a %T", path, listener), listener.Close())
	}
	return unixListener, nil
}

// Unlisten removes the file of a socket that Listen made, unless another one has
// taken its place.
func (d *Deputy) Unlisten(ctx context.Context, path string) error {
	_, err := d.ask(ctx, request{Unlisten: path})
	return err
}

// ask sends a question and waits for its answer. Answers to earlier questions,
// for which nobody waits any more, are passed over.
func (d *Deputy) ask(ctx context.Context, question request, files ...*os.File) (a answer, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lastID++
	question.ID = d.lastID
	if err := d.send(question, files); err != nil {
		return a, fmt.Errorf("ask deputy: %w", err)
	}
	if err := d.conn.SetReadDeadline(time.Time{}); err != nil {
		return a, fmt.Errorf("ask deputy: %w", err)
	}
	given := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = d.conn.SetReadDeadline(time.Unix(1, 0))
		close(given)
	})
	defer func() {
		if !stop() {
			<-given // or it would end the next question
		}
	}()
	for a.ID != question.ID {
		if a.file != nil {
			_ = a.file.Close() // nobody waits for it any more
		}
		if a, err = d.receive(); err != nil {
			return a, fmt.Errorf("ask deputy: %w", err)
		}
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// receive reads one answer.
func (d *Deputy) receive() (a answer, err error) {
	text, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxFDs))
	n, rightsLen, _, _, err := d.conn.ReadMsgUnix(text, rights)
	if err != nil {
		return a, err
	}
	if n == 0 {
		return a, io.EOF
	}
	files, err := received(rights[:rightsLen])
	if err == nil {
		err = json.Unmarshal(text[:n], &a)
	}
	for i, file := range files {
		if i == 0 && err == nil {
			a.file = file
			continue
		}
		_ = file.Close()
	}
	return a, err
}

func (d *Deputy) send(question request, files []*os.File) error {
	text, err := json.Marshal(question)
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, file := range files {
			fds[i] = int(file.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err = d.conn.WriteMsgUnix(text, rights, nil)
	return err
}
