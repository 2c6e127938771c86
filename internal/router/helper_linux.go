package router

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// helperPatience bounds one request, which therefore takes no context: the
// helper answers in microseconds unless it is stopped or dead.
const helperPatience = 5 * time.Second

// replacePatience is how long a request waits for another helper when the one
// that was attached to has died: it takes 50 ms to start on an idle computer.
const (
	replacePatience = 3 * time.Second
	replacePoll     = 10 * time.Millisecond
)

// helper is the daemon's side of the hand-over.
type helper struct {
	path     string
	patience time.Duration // for another helper; not changed while requests are made

	mu   sync.Mutex // guards conn: one request at a time
	conn *net.UnixConn
}

// Stop tells the helper behind a hand-over socket to end, for when there is no
// daemon to do it.
func Stop(socketPath string) error {
	h := &helper{path: socketPath}
	defer h.close()
	_, err := h.request(wordStop)
	return err
}

// request sends one line and returns the descriptors of the answer. After a
// broken connection it dials once more: a request changes nothing there.
func (h *helper) request(words ...string) ([]int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	line := strings.Join(words, " ")
	used := h.conn != nil
	fds, err := h.requestLocked(line)
	if err != nil && used && h.conn == nil {
		fds, err = h.requestLocked(line)
	}
	for end := time.Now().Add(h.patience); isGone(err) && time.Now().Before(end); time.Sleep(replacePoll) {
		fds, err = h.requestLocked(line)
	}
	if err != nil {
		return nil, fmt.Errorf("ask router helper to %s: %w", line, err)
	}
	return fds, nil
}

// isGone reports whether nobody listens where the helper should.
func isGone(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)
}

func (h *helper) requestLocked(line string) ([]int, error) {
	if h.conn == nil {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: h.path})
		if err != nil {
			return nil, err
		}
		h.conn = conn
	}
	_ = h.conn.SetDeadline(time.Now().Add(helperPatience)) // fails on a closed socket only
	if _, err := fmt.Fprintln(h.conn, line); err != nil {
		h.dropLocked()
		return nil, err
	}
	text, fds, err := readAnswer(h.conn)
	if err != nil {
		closeAll(fds)
		h.dropLocked()
		return nil, err
	}
	return checkAnswer(text, fds)
}

// readAnswer reads up to the end of the line, with its descriptors.
func readAnswer(conn *net.UnixConn) (string, []int, error) {
	var text []byte
	var fds []int
	buf, oob := make([]byte, 1024), make([]byte, unix.CmsgSpace(4*(maxBatch+1)))
	for {
		n, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
		if err != nil {
			return "", fds, err
		}
		got, err := parseRights(oob[:oobn])
		fds = append(fds, got...)
		if err != nil {
			return "", fds, err
		}
		if flags&unix.MSG_CTRUNC != 0 {
			return "", fds, errors.New("take descriptors: the limit of open files is reached; raise it (ulimit -n)")
		}
		if n == 0 {
			return "", fds, errors.New("connection closed without an answer")
		}
		text = append(text, buf[:n]...)
		if text[len(text)-1] == '\n' {
			return strings.TrimSpace(string(text)), fds, nil
		}
	}
}

func parseRights(oob []byte) ([]int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse descriptors: %w", err)
	}
	var fds []int
	for _, msg := range msgs {
		got, err := unix.ParseUnixRights(&msg)
		if err != nil {
			return fds, fmt.Errorf("parse descriptors: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func checkAnswer(text string, fds []int) ([]int, error) {
	word, rest, _ := strings.Cut(text, " ")
	if word == wordError {
		closeAll(fds)
		return nil, errors.New(rest)
	}
	if n, err := strconv.Atoi(rest); word != wordOK || err != nil || n != len(fds) {
		closeAll(fds)
		return nil, fmt.Errorf("answer %q with %d descriptors: not understood", text, len(fds))
	}
	for _, fd := range fds {
		if err := unix.SetNonblock(fd, true); err != nil {
			closeAll(fds)
			return nil, os.NewSyscallError("fcntl", err)
		}
	}
	return fds, nil
}

func (h *helper) dropLocked() {
	_ = h.conn.Close()
	h.conn = nil
}

func (h *helper) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != nil {
		h.dropLocked()
	}
}
