package agentlink

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"testing"
)

func TestForwardIsAStream(t *testing.T) {
	d := newDaemon()
	socket := filepath.Join(t.TempDir(), "s")
	stop := start(t, socket, d)
	c := newClient(t, socket)
	if got, err := c.Listeners(t.Context()); err != nil || len(got) != 1 {
		t.Errorf("listeners = %q, %v", got, err)
	}
	conn, err := c.Forward(t.Context(), "unix:/run/host-services/a.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	d.want(t, "forward unix:/run/host-services/a.sock")
	const said = "first bytes at once"
	if _, err := io.WriteString(conn, said); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != said {
		t.Errorf("the stream echoes %q, %v", got, err)
	}
	stop()
}

func TestForwardRefused(t *testing.T) {
	d := newDaemon()
	socket := filepath.Join(t.TempDir(), "s")
	start(t, socket, d)
	d.refuse(errors.New("no ssh-agent"))
	_, err := newClient(t, socket).Forward(t.Context(), "x")
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Status != http.StatusBadGateway || refusal.Text != "no ssh-agent" {
		t.Errorf("err = %v, want the daemon's refusal", err)
	}
}

func TestForwardWithoutDaemon(t *testing.T) {
	if _, err := OpenStream(context.Background(), filepath.Join(t.TempDir(), "none"), pathForward, nil); !absent(err) {
		t.Errorf("err = %v, want one that says that nobody listens", err)
	}
}
