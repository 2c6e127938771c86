package deputy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/hostservice"
	"github.com/portolan-net/portolan/internal/machine"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/publish"
	"github.com/portolan-net/portolan/internal/router"
	"github.com/portolan-net/portolan/internal/spec"
)

// duties are what is done for the daemon.
type duties struct {
	holder  func(context.Context, portolan.Binding) string
	resume  func(context.Context, machine.Record, *router.Estate) (machine.Record, error)
	connect func(path string) (*os.File, error)
	sockets *hostservice.Sockets
}

// Run is the process's whole life. It ends with the daemon.
func Run(ctx context.Context) error {
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE)
	conn, err := connOf(os.NewFile(socketFD, "daemon"))
	if err != nil {
		return fmt.Errorf("serve daemon: %w", err)
	}
	defer conn.Close()
	var cfg spec.Machine
	if err := json.NewDecoder(os.Stdin).Decode(&cfg); err != nil {
		return fmt.Errorf("read description of the machine: %w", err)
	}
	reports, err := connOf(os.NewFile(reportFD, "daemon"))
	if err != nil {
		return fmt.Errorf("serve daemon: %w", err)
	}
	reportCtx, endReports := context.WithCancel(ctx)
	var reporting sync.WaitGroup
	defer reporting.Wait()
	defer reports.Close()
	defer endReports()
	reporting.Go(func() {
		if err := report(reportCtx, cfg.Profile, reports); err != nil && !errors.Is(err, net.ErrClosed) {
			fmt.Fprintln(os.Stderr, "deputy: report proxies:", err)
		}
	})
	guard := hostservice.HostGuard(cfg.Profile.RunDir, os.Getenv("DOCKER_HOST"))
	sockets := &hostservice.Sockets{Guard: guard}
	defer sockets.Close()
	return serve(ctx, conn, duties{
		sockets: sockets,
		holder: func(ctx context.Context, b portolan.Binding) string {
			return publish.HolderOf(ctx, b, neighbours(cfg.Profile, b))
		},
		connect: func(path string) (*os.File, error) { return hostservice.ConnectUnix(path, guard) },
		resume: func(ctx context.Context, r machine.Record, estate *router.Estate) (machine.Record, error) {
			return machine.Resume(ctx, cfg, r, estate)
		},
	})
}

// maxFDs is more than an estate has.
const maxFDs = 16

// serve answers until the other end closes.
func serve(ctx context.Context, conn *net.UnixConn, d duties) error {
	text, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxFDs))
	for {
		n, rightsLen, _, _, err := conn.ReadMsgUnix(text, rights)
		if errors.Is(err, io.EOF) || err == nil && n == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read question: %w", err)
		}
		if err := reply(conn, d.answer(ctx, text[:n], rights[:rightsLen])); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// reply sends an answer, with its descriptor if it has one.
func reply(conn *net.UnixConn, a answer) error {
	text, err := json.Marshal(a)
	var rights []byte
	if a.file != nil {
		defer a.file.Close()
		rights = unix.UnixRights(int(a.file.Fd()))
	}
	if err != nil {
		return err
	}
	_, _, err = conn.WriteMsgUnix(text, rights, nil)
	return err
}

// The longest that an answer takes: a search, and the start of a program.
const (
	holderTime = 2 * time.Second
	resumeTime = 20 * time.Second
)

func (d duties) answer(ctx context.Context, text, rights []byte) answer {
	files, err := received(rights)
	defer func() {
		for _, file := range files {
			_ = file.Close()
		}
	}()
	if err != nil {
		return answer{Error: err.Error()}
	}
	q, err := parseRequest(text)
	switch {
	case err != nil:
		return answer{ID: q.ID, Error: err.Error()}
	case q.Holder != nil:
		ctx, cancel := context.WithTimeout(ctx, holderTime)
		defer cancel()
		return answer{ID: q.ID, Holder: d.holder(ctx, *q.Holder)}
	case q.Connect != "":
		return answerFile(q.ID, d.connect, q.Connect)
	case q.Listen != "":
		return answerFile(q.ID, d.sockets.Listen, q.Listen)
	case q.Names != "":
		return answerFile(q.ID, openNames, q.Names)
	case q.Unlisten != "":
		d.sockets.Remove(q.Unlisten)
		return answer{ID: q.ID}
	case len(files) != estateFiles:
		return answer{ID: q.ID, Error: fmt.Sprintf("%d descriptors came with the question, want %d", len(files), estateFiles)}
	}
	ctx, cancel := context.WithTimeout(ctx, resumeTime)
	defer cancel()
	record, err := d.resume(ctx, *q.Resume, &router.Estate{Network: files[0], User: files[1], Router: files[2:]})
	if err != nil {
		return answer{ID: q.ID, Error: err.Error()}
	}
	return answer{ID: q.ID, Record: record}
}

// answerFile is what do makes of a path.
func answerFile(id uint64, do func(path string) (*os.File, error), path string) answer {
	file, err := do(path)
	if err != nil {
		return answer{ID: id, Error: err.Error()}
	}
	return answer{ID: id, file: file}
}

// estateFiles is how many descriptors a router.Estate has.
const estateFiles = 7

// parseRequest wants exactly one question.
func parseRequest(text []byte) (request, error) {
	var q request
	if err := json.Unmarshal(text, &q); err != nil {
		return q, fmt.Errorf("parse question: %w", err)
	}
	asked := 0
	for _, one := range []bool{q.Holder != nil, q.Resume != nil, q.Connect != "", q.Listen != "", q.Unlisten != "", q.Names != ""} {
		if one {
			asked++
		}
	}
	if asked != 1 {
		return q, errors.New("parse question: want one of holder, resume, connect, listen, unlisten and names")
	}
	return q, nil
}

// received are the descriptors that came with a message.
func received(rights []byte) ([]*os.File, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("parse descriptors: %w", err)
	}
	var files []*os.File
	for _, message := range messages {
		fds, err := unix.ParseUnixRights(&message)
		if err != nil {
			return files, fmt.Errorf("parse descriptors: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "of the daemon"))
		}
	}
	return files, nil
}
