package shim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/portolan-net/portolan/internal/portolan"
)

// verb is what a shim asks for.
type verb string

const (
	verbPublish   verb = "publish"
	verbRenew     verb = "renew"
	verbUnpublish verb = "unpublish"
)

// request is a shim's message. Binding is set in the first of a connection.
type request struct {
	Verb    verb             `json:"verb"`
	Binding portolan.Binding `json:"binding,omitzero"`
}

// checkRequest refuses a first message that means nothing.
func checkRequest(r request) error {
	if r.Verb != verbPublish && r.Verb != verbRenew && r.Verb != verbUnpublish {
		return fmt.Errorf("ask portolan-agent to %q: not known", r.Verb)
	}
	if !r.Binding.Host.IsValid() || !r.Binding.Container.IsValid() {
		return fmt.Errorf("ask portolan-agent to %s %s: want a host address and a container address", r.Verb, r.Binding)
	}
	return nil
}

// answer is the agent's.
type answer struct {
	Error string `json:"error,omitempty"`
}

// maxLine bounds a message; an error text is the longest.
const maxLine = 8 << 10

// send writes one message, with a copy of descriptor fd unless that is negative.
func send(conn *net.UnixConn, message any, fd int) error {
	line, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	var rights []byte
	if fd >= 0 {
		rights = syscall.UnixRights(fd)
	}
	if _, _, err := conn.WriteMsgUnix(append(line, '\n'), rights, nil); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// receive reads one message and the descriptor that came with it; the file is
// nil without one, and on an error. io.EOF says that the other side has gone.
func receive(conn *net.UnixConn, message any) (*os.File, error) {
	line, oob := make([]byte, maxLine), make([]byte, syscall.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(line, oob)
	if n == 0 || errors.Is(err, syscall.ECONNRESET) {
		if err == nil || errors.Is(err, syscall.ECONNRESET) {
			err = io.EOF
		}
	}
	if err != nil {
		return nil, err
	}
	file, err := attached(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if err := decode(conn, line, n, message); err != nil {
		if file != nil {
			_ = file.Close()
		}
		return nil, err
	}
	return file, nil
}

// decode reads on to the end of the line, of which n bytes have come, and
// decodes it. Each side waits for the other's answer, so nothing follows a line.
func decode(conn *net.UnixConn, line []byte, n int, message any) error {
	for bytes.IndexByte(line[:n], '\n') < 0 {
		if n == len(line) {
			return fmt.Errorf("read message: longer than %d bytes", maxLine)
		}
		more, err := conn.Read(line[n:])
		if err != nil {
			return fmt.Errorf("read message: %w", err)
		}
		n += more
	}
	if err := json.Unmarshal(line[:n], message); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	return nil
}

// attached returns the one descriptor of a control message.
func attached(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("read descriptor: %w", err)
	}
	var fds []int
	for _, m := range messages {
		more, err := syscall.ParseUnixRights(&m)
		if err != nil {
			continue // another kind of control message
		}
		fds = append(fds, more...)
	}
	if len(fds) != 1 {
		for _, fd := range fds {
			_ = syscall.Close(fd)
		}
		return nil, fmt.Errorf("read descriptor: %d came, want one", len(fds))
	}
	return os.NewFile(uintptr(fds[0]), "published socket"), nil
}
