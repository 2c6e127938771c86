package hostnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// The daemon can't reach the machine's loopback; the agent can, and hands it a
// connected socket. On a unixpacket socket in the shared directory, one message
// asks with a portolan.Listener, one message answers: "ok" with the descriptor as
// SCM_RIGHTS of unix(7), or a dialError in JSON.
const (
	dialSocket  = "dial.sock"
	dialOK      = "ok"
	dialTimeout = 10 * time.Second
	maxMessage  = 4 << 10
)

// dialError carries the kernel's own word, so that the daemon can act on it.
type dialError struct {
	Errno syscall.Errno `json:"errno,omitempty"`
	Text  string        `json:"text"`
}

// ServeDials answers the daemon until ctx ends.
func ServeDials(ctx context.Context, sharedDir string, log *slog.Logger) error {
	path := filepath.Join(sharedDir, dialSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, listener.Close())
	}
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	var answering sync.WaitGroup
	defer answering.Wait()
	for {
		conn, err := listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
			time.Sleep(Period)
			continue
		case err != nil:
			return fmt.Errorf("accept daemon on %s: %w", path, err)
		}
		answering.Go(func() {
			defer conn.Close()
			if err := answerDial(ctx, conn); err != nil {
				log.Debug("answer dial", "err", err)
			}
		})
	}
}

// answerDial serves one connection.
func answerDial(ctx context.Context, conn *net.UnixConn) error {
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	buf := make([]byte, maxMessage)
	n, err := conn.Read(buf)
	if err != nil {
		return err
	}
	file, err := dialLocal(ctx, buf[:n])
	if err != nil {
		answer := dialError{Text: err.Error()}
		_ = errors.As(err, &answer.Errno) // where it is one
		text, err := json.Marshal(answer)
		if err != nil {
			return err
		}
		_, err = conn.Write(text)
		return err
	}
	defer file.Close()
	_, _, err = conn.WriteMsgUnix([]byte(dialOK), unix.UnixRights(int(file.Fd())), nil)
	return err
}

// dialLocal connects to a port of the machine's loopback, and to nothing else.
func dialLocal(ctx context.Context, request []byte) (*os.File, error) {
	var to portolan.Listener
	if err := json.Unmarshal(request, &to); err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	if (to.Proto != portolan.TCP && to.Proto != portolan.UDP) || !to.Addr.Addr().IsLoopback() {
		return nil, fmt.Errorf("dial %s: want tcp or udp, and a loopback address", to)
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, to.Proto.String(), to.Addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(interface{ File() (*os.File, error) }).File()
}

// Dial connects to a port of the machine's loopback, through the agent behind
// sharedDir, as the host sees it. The connection is a *net.TCPConn or a
// *net.UDPConn. A refusal wraps the kernel's error in the machine.
func Dial(ctx context.Context, sharedDir string, to portolan.Listener) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unixpacket", filepath.Join(sharedDir, dialSocket))
	if err != nil {
		return nil, fmt.Errorf("ask agent to dial %s: %w", to, err)
	}
	defer conn.Close()
	deadline := time.Now().Add(dialTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	request, err := json.Marshal(to)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(request); err != nil {
		return nil, fmt.Errorf("ask agent to dial %s: %w", to, err)
	}
	answer, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(answer, oob)
	if err != nil {
		return nil, fmt.Errorf("ask agent to dial %s: %w", to, err)
	}
	return received(to, answer[:n], oob[:oobn])
}

// received makes a connection of the agent's answer.
func received(to portolan.Listener, answer, oob []byte) (net.Conn, error) {
	fds := rights(oob)
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	if string(answer) != dialOK {
		var refusal dialError
		if err := json.Unmarshal(answer, &refusal); err != nil {
			return nil, fmt.Errorf("dial %s in the machine: the agent's answer is not understood", to)
		}
		if refusal.Errno != 0 {
			return nil, fmt.Errorf("dial %s in the machine: %w", to, refusal.Errno)
		}
		return nil, fmt.Errorf("dial %s in the machine: %s", to, refusal.Text)
	}
	if len(fds) != 1 {
		return nil, fmt.Errorf("dial %s in the machine: the agent sent %d descriptors", to, len(fds))
	}
	file := os.NewFile(uintptr(fds[0]), "machine "+to.String())
	fds = nil
	defer file.Close()
	conn, err := net.FileConn(file) // on a duplicate
	if err != nil {
		return nil, fmt.Errorf("dial %s in the machine: %w", to, err)
	}
	_, isTCP := conn.(*net.TCPConn)
	_, isUDP := conn.(*net.UDPConn)
	if isTCP != (to.Proto == portolan.TCP) || isUDP != (to.Proto == portolan.UDP) {
		_ = conn.Close()
		return nil, fmt.Errorf("dial %s in the machine: the agent sent another kind of socket", to)
	}
	return conn, nil
}

// rights are the descriptors that came with a message, which net has made to end
// with the process (MSG_CMSG_CLOEXEC).
func rights(oob []byte) []int {
	var fds []int
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}
