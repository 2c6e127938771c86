package deputy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// session is the user who typed `portolan up`: with sudo, the one who typed that.
type session struct {
	home       string
	env        []string            // of programs that run as this user; nil for the deputy's own
	credential *syscall.Credential // nil for the deputy's own
}

// sessionUser finds out who it is. What sudo says counts for root alone.
func sessionUser(getenv func(string) string) (session, error) {
	uid := getenv("SUDO_UID")
	if os.Geteuid() != 0 || uid == "" || uid == "0" {
		home, err := os.UserHomeDir()
		if err != nil {
			home = "/"
		}
		return session{home: home}, nil
	}
	u, err := user.LookupId(uid)
	if err != nil {
		return session{}, fmt.Errorf("find the user behind sudo: %w", err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return session{}, fmt.Errorf("find the groups of %s: %w", u.Username, err)
	}
	credential, err := credentialOf(u, groups)
	if err != nil {
		return session{}, fmt.Errorf("find the user behind sudo: %w", err)
	}
	runDir := "/run/user/" + u.Uid
	return session{home: u.HomeDir, credential: credential, env: []string{
		"HOME=" + u.HomeDir, "USER=" + u.Username, "LOGNAME=" + u.Username, "PATH=/usr/local/bin:/usr/bin:/bin",
		"XDG_RUNTIME_DIR=" + runDir, "DBUS_SESSION_BUS_ADDRESS=unix:path=" + runDir + "/bus",
	}}, nil
}

func credentialOf(u *user.User, groups []string) (*syscall.Credential, error) {
	var numbers []uint32
	for _, text := range append([]string{u.Uid, u.Gid}, groups...) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, uint32(n))
	}
	return &syscall.Credential{Uid: numbers[0], Gid: numbers[1], Groups: numbers[2:]}, nil
}

// maxOutput is far more than a password, or GNOME's settings about proxies, have.
const maxOutput = 64 << 10

// run starts a program as the user and returns what it prints.
func (s session) run(ctx context.Context, argv []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = s.env, s.home
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential, Setpgid: true}
	// What the program has started ends with it.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out, trouble limited
	cmd.Stdout, cmd.Stderr = &out, &trouble
	err := cmd.Run()
	if ctx.Err() != nil {
		err = errors.New("it does not end in time")
	}
	if err != nil {
		return nil, fmt.Errorf("run %s: %w: %s", argv[0], err, firstLine(trouble.Bytes()))
	}
	return out.Bytes(), nil
}

// limited keeps the first maxOutput bytes.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), maxOutput-l.Len())])
	return len(p), nil
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line)
}

// passwordTime bounds the password command, which may ask a keyring.
const passwordTime = 20 * time.Second

// password runs the command of the settings. Its first line is the password.
func (r *reporter) password(ctx context.Context) (password, problem string) {
	command, err := r.command()
	if command == "" && err == nil {
		return "", ""
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, passwordTime)
		defer cancel()
		var text []byte
		if text, err = r.run(ctx, []string{"/bin/sh", "-c", command}); err == nil {
			line, _, _ := strings.Cut(string(text), "\n")
			password = strings.TrimSuffix(line, "\r")
			if password == "" {
				err = errors.New("it printed nothing")
			}
		}
	}
	if err != nil {
		return "", fmt.Sprintf("portolan.proxyPasswordCommand: %v; correct it, then: portolan settings apply", err)
	}
	return password, ""
}
