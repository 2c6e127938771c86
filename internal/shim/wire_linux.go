package shim

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
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

// request is a shim's message.
type request struct {
	verb verb
	args []string // the engine's
}

// binding is what the engine asks for.
func (r request) binding() (portolan.Binding, error) {
	if r.verb != verbPublish && r.verb != verbRenew && r.verb != verbUnpublish {
		return portolan.Binding{}, fmt.Errorf("ask portolan-agent to %q: not known", r.verb)
	}
	return parse(r.args)
}

const (
	// maxRequest bounds a message; docker-proxy's flags take some 200 bytes.
	maxRequest = 1 << 10
	// maxAnswer is what a shim reads.
	maxAnswer = 8 << 10
)

// answer sends what the shim passes on to the engine's status pipe.
func answer(conn *net.UnixConn, err error) {
	text := "0\n"
	if err != nil {
		text = "1\n" + err.Error()
	}
	_, _ = conn.Write([]byte(text[:min(len(text), maxAnswer)])) // a shim that has gone shows when read
}

// receive reads the first message of a connection and the descriptor that came
// with it; the file is nil without one, and on an error. io.EOF says that the
// other side has gone.
func receive(conn *net.UnixConn) (request, *os.File, error) {
	text, oob := make([]byte, maxRequest), make([]byte, syscall.CmsgSpace(4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(text, oob)
	if err == nil && n == 0 || errors.Is(err, syscall.ECONNRESET) {
		err = io.EOF
	}
	if err != nil {
		return request{}, nil, err
	}
	file, err := attached(oob[:oobn])
	if err == nil && flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0 {
		err = fmt.Errorf("read message: longer than %d bytes, or with more than one descriptor", maxRequest)
	}
	if err != nil {
		if file != nil {
			_ = file.Close()
		}
		return request{}, nil, err
	}
	return decode(string(text[:n])), file, nil
}

// decode takes a message apart.
func decode(text string) request {
	words := strings.Split(text, "\x00")
	return request{verb(words[0]), words[1:]}
}

// unpublishes waits for what ends a binding, and reports whether it is the
// shim's wish; otherwise the shim has gone. It holds no buffer to speak of:
// thousands wait here.
func unpublishes(conn *net.UnixConn) bool {
	var text [len(verbUnpublish)]byte
	n, err := conn.Read(text[:]) // the engine's flags follow, and are known
	return err == nil && verb(text[:n]) == verbUnpublish
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
	syscall.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "published socket"), nil
}
