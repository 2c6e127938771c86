package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Sockets that are bind-mounted into containers must not be made anew when the
// agent dies: the containers would keep the old file, behind which nobody listens.
// So PID 1 holds them. The agent hands each over when it has made it, and every
// agent starts with all that are held, as descriptors:
//
//	3      a socket on which {"keep": NAME} comes with a descriptor, {"drop": NAME} without
//	4...   the sockets, in the order of the names in keptVariable

// keptVariable lists the names of what an agent is given, in JSON.
const keptVariable = "PORTOLAN_KEPT"

// What an agent finds where.
const (
	keptFD   = 3
	firstFD  = 4
	maxKept  = 256
	keptText = 4 << 10 // a message: a path and some letters
)

// keptMessage is what an agent tells PID 1.
type keptMessage struct {
	Keep string `json:"keep,omitempty"`
	Drop string `json:"drop,omitempty"`
}

// keeper is PID 1's side.
type keeper struct {
	theirs *os.File // every agent's end
	mu     sync.Mutex
	files  map[string]*os.File // guarded by mu
}

// newKeeper starts to listen to agents, for PID 1's life.
func newKeeper(log *slog.Logger) (*keeper, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the keeper's socket: %w", err)
	}
	k := &keeper{theirs: os.NewFile(uintptr(fds[1]), "agent"), files: map[string]*os.File{}}
	go k.listen(fds[0], log)
	return k, nil
}

func (k *keeper) listen(fd int, log *slog.Logger) {
	text, rights := make([]byte, keptText), make([]byte, unix.CmsgSpace(4))
	for {
		n, rightsLen, _, _, err := unix.Recvmsg(fd, text, rights, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			log.Error("hear agents", "err", err)
			return
		}
		if err := k.take(text[:n], rights[:rightsLen]); err != nil {
			log.Warn("keep socket", "err", err)
		}
	}
}

// take does what one message says.
func (k *keeper) take(text, rights []byte) error {
	var file *os.File
	if messages, err := unix.ParseSocketControlMessage(rights); err == nil && len(messages) == 1 {
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
			file = os.NewFile(uintptr(fds[0]), "kept")
		}
	}
	var m keptMessage
	err := json.Unmarshal(text, &m)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err != nil:
	case m.Drop != "" && k.files[m.Drop] != nil:
		_ = k.files[m.Drop].Close()
		delete(k.files, m.Drop)
	case m.Keep != "" && file != nil && len(k.files) < maxKept:
		if old := k.files[m.Keep]; old != nil {
			_ = old.Close()
		}
		k.files[m.Keep] = file
		return nil
	case m.Keep != "":
		err = fmt.Errorf("%s came without a descriptor, or as one too many", m.Keep)
	}
	if file != nil {
		_ = file.Close()
	}
	return err
}

// start starts an agent with everything that is kept. What an earlier agent may
// still say is heard afterwards: a socket must not be closed while it is given.
func (k *keeper) start(cmd *exec.Cmd) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	names := []string{}
	for name := range k.files {
		names = append(names, name)
	}
	slices.Sort(names)
	cmd.ExtraFiles = []*os.File{k.theirs}
	for _, name := range names {
		cmd.ExtraFiles = append(cmd.ExtraFiles, k.files[name])
	}
	text, _ := json.Marshal(names) // strings always can be
	cmd.Env = append(cmd.Environ(), keptVariable+"="+string(text))
	return cmd.Start()
}

// Kept is the agent's side: the listening sockets that outlive it.
type Kept struct {
	mu    sync.Mutex // one message at a time; guards what follows
	conn  int        // -1 where PID 1 keeps nothing
	files map[string]*os.File
}

// OpenKept takes over what PID 1 gave this process. It is called once, before
// any program is started.
func OpenKept() (*Kept, error) {
	var names []string
	if os.Getenv(keptVariable) == "" { // the PID 1 of an earlier version
		return &Kept{conn: -1, files: map[string]*os.File{}}, nil
	}
	if err := json.Unmarshal([]byte(os.Getenv(keptVariable)), &names); err != nil {
		return nil, fmt.Errorf("read %s: %w", keptVariable, err)
	}
	if err := os.Unsetenv(keptVariable); err != nil {
		return nil, err
	}
	unix.CloseOnExec(keptFD)
	k := &Kept{conn: keptFD, files: map[string]*os.File{}}
	for i, name := range names {
		unix.CloseOnExec(firstFD + i)
		k.files[name] = os.NewFile(uintptr(firstFD+i), name)
	}
	return k, nil
}

// Names lists what came from an earlier agent and has not been taken.
func (k *Kept) Names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	names := []string{}
	for name := range k.files {
		names = append(names, name)
	}
	return names
}

// Take returns the earlier agent's listener of that name, nil if there is none.
func (k *Kept) Take(name string) (net.Listener, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	file := k.files[name]
	if file == nil {
		return nil, nil
	}
	delete(k.files, name)
	defer file.Close()
	return net.FileListener(file)
}

// Keep lets PID 1 hold l for the agents to come.
func (k *Kept) Keep(name string, l *net.UnixListener) error {
	raw, err := l.SyscallConn() // os.File's Fd would make accepting block, and Close wait
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) { sendErr = k.send(keptMessage{Keep: name}, unix.UnixRights(int(fd))) })
	return errors.Join(err, sendErr)
}

// Drop lets PID 1 close what it holds under that name.
func (k *Kept) Drop(name string) error { return k.send(keptMessage{Drop: name}, nil) }

func (k *Kept) send(m keptMessage, rights []byte) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if k.conn < 0 {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := unix.Sendmsg(k.conn, text, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("hand socket to PID 1: %w", err)
	}
	return nil
}
