package hostservice

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseEndpoint(t *testing.T) {
	for text, want := range map[string]string{
		"unix:/run/a.sock":       "unix:/run/a.sock",
		"unix:/run/../run/a":     "unix:/run/a",
		"unix:a.sock":            "unix:a.sock",
		"tcp:127.0.0.1:80":       "tcp:127.0.0.1:80",
		"tcp:localhost:80":       "tcp:127.0.0.1:80",
		"tcp:[::1]:80":           "tcp:[::1]:80",
		"tcp:[::ffff:1.2.3.4]:1": "tcp:1.2.3.4:1",
	} {
		got, err := ParseEndpoint(text)
		if err != nil || got.String() != want {
			t.Errorf("ParseEndpoint(%q) = %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "unix", "unix:", "unix:./a", "unix:a/b", "tcp:80", "tcp:host:80", "tcp:1.2.3.4:0", "tcp:1.2.3.4:70000", "udp:1.2.3.4:5", "/run/a.sock"} {
		if got, err := ParseEndpoint(text); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("ParseEndpoint(%q) = %s, %v, want an error that says what is wanted", text, got, err)
		}
	}
}

// places are those of a profile with its sockets in /h.
var places = Places{Dir: "/h/forward", Guard: Guard{Dirs: []string{"/h"}, Sockets: []string{"/run/docker.sock"}}}

func TestPlace(t *testing.T) {
	for _, c := range []struct{ from, listen, to, want, err string }{
		{"machine", "unix:a.sock", "unix:/x", "unix:/run/host-services/a.sock", ""},
		{"machine", "unix:/run/host-services/a.sock", "tcp:1.2.3.4:5", "unix:/run/host-services/a.sock", ""},
		{"machine", "tcp:[::1]:5", "unix:/x", "tcp:[::1]:5", ""},
		{"host", "unix:a.sock", "unix:/x", "unix:/h/forward/a.sock", ""},
		{"machine", "unix:/run/postgresql/.s.PGSQL.5432", "tcp:1.2.3.4:5", "unix:/run/postgresql/.s.PGSQL.5432", ""},
		{"machine", "unix:/tmp/a.sock", "unix:/x", "", "below /run"},
		{"machine", "unix:/running/a.sock", "unix:/x", "", "below /run"},
		{"machine", "unix:/run/docker.sock", "unix:/x", "", "place of an engine's"},
		{"machine", "unix:/run/portolan/a.sock", "unix:/x", "", "place of an engine's"},
		{"machine", "unix:/run/.host/run/containerd/a.sock", "unix:/x", "", "place of an engine's"},
		{"machine", "unix:ssh-auth.sock", "unix:/x", "", "portolan ssh-agent use"},
		{"machine", "unix:a b", "unix:/x", "", "letters"},
		{"machine", "unix:" + strings.Repeat("a", 100), "unix:/x", "", "longer than 107"},
		{"machine", "tcp:0.0.0.0:5", "unix:/x", "", "127.0.0.1"},
		{"machine", "tcp:192.168.65.3:5", "unix:/x", "", "127.0.0.1"},
		{"host", "tcp:0.0.0.0:5", "unix:/x", "", "127.0.0.1"},
		{"host", "unix:/home/me/a.sock", "unix:/x", "unix:/home/me/a.sock", ""},
		{"host", "unix:/h/others/a.sock", "unix:/x", "", "place of an engine's"},
		{"host", "unix:/run/docker.sock", "unix:/x", "", "place of an engine's"},
		{"host", "unix:/", "unix:/x", "", "letters"},
		{"host", "tcp:127.0.0.1:5", "unix:x", "", "absolute"},
		{"", "unix:a", "unix:/x", "", "host or machine"},
	} {
		listen, err := ParseEndpoint(c.listen)
		if err != nil {
			t.Fatal(err)
		}
		to, err := ParseEndpoint(c.to)
		if err != nil {
			t.Fatal(err)
		}
		got, err := places.Place(Forward{From: Side(c.from), Listen: listen, To: to})
		switch {
		case c.err == "" && (err != nil || got.Listen.String() != c.want):
			t.Errorf("%v: listens on %s, %v, want %s", c, got.Listen, err, c.want)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%v: err = %v, want %q in it", c, err, c.err)
		}
	}
}

func FuzzParseEndpoint(f *testing.F) {
	for _, seed := range []string{"unix:/a", "tcp:[::1%lo]:1", "unix:..", "tcp:1.2.3.4:5"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := ParseEndpoint(text)
		if err != nil {
			return
		}
		if again, err := ParseEndpoint(e.String()); err != nil || again != e {
			t.Errorf("%q is %v, and that is %v, %v", text, e, again, err)
		}
		placed, err := places.Place(Forward{From: Machine, Listen: e, To: SSHAgent})
		if err == nil && e.Network == "unix" && !strings.HasPrefix(placed.Listen.Address, "/run/") {
			t.Errorf("%q listens on %s", text, placed.Listen)
		}
	})
}

func TestForwardAsJSON(t *testing.T) {
	f := Forward{From: Machine, Listen: Endpoint{"unix", "/run/host-services/a"}, To: Endpoint{"tcp", "[::1]:5"}}
	text, err := json.Marshal(f)
	if err != nil || string(text) != `{"from":"machine","listen":"unix:/run/host-services/a","to":"tcp:[::1]:5"}` {
		t.Errorf("%s, %v", text, err)
	}
	var back Forward
	if err := json.Unmarshal(text, &back); err != nil || back != f {
		t.Errorf("comes back as %+v, %v", back, err)
	}
}

func TestCandidates(t *testing.T) {
	env := map[string]string{"SSH_AUTH_SOCK": "/tmp/agent.1", "SUDO_UID": "1000"}
	e := ReadEnvironment(func(name string) string { return env[name] }, 0)
	list := e.Candidates("")
	if list[0] != (Candidate{"/tmp/agent.1", "SSH_AUTH_SOCK"}) || list[1].Path != "/run/user/0/openssh_agent" {
		t.Errorf("candidates begin with %v", list[:2])
	}
	if last := list[len(list)-1].Path; last != "/run/user/1000/gnupg/S.gpg-agent.ssh" {
		t.Errorf("candidates end with %s, want the place of who used sudo", last)
	}
	if got := e.Candidates("/x"); len(got) != 1 || got[0].Path != "/x" {
		t.Errorf("a choice is not alone: %v", got)
	}
	if got := e.Candidates(NoAgent); len(got) != 0 {
		t.Errorf("%s has candidates: %v", NoAgent, got)
	}
	env["SUDO_UID"] = "../../tmp"
	for _, c := range ReadEnvironment(func(name string) string { return env[name] }, 0).Candidates("") {
		if strings.Contains(c.Path, "/tmp/o") {
			t.Errorf("a candidate comes from a bad SUDO_UID: %s", c.Path)
		}
	}
}

// asked is the question for an agent's keys.
var asked = []byte{0, 0, 0, 1, 11}

// agent answers that question with fixed bytes, and echoes what comes then.
func agent(t *testing.T, answer string) net.Conn {
	t.Helper()
	conn, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		question := make([]byte, len(asked))
		if _, err := io.ReadFull(theirs, question); err != nil || !bytes.Equal(question, asked) {
			return
		}
		if _, err := io.WriteString(theirs, answer); err != nil || answer == "" {
			return
		}
		_, _ = io.Copy(theirs, theirs)
	}()
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestCountKeys(t *testing.T) {
	for answer, want := range map[string]int{
		"\x00\x00\x00\x08\x0c\x00\x00\x00\x03key": 3,
		"\x00\x00\x00\x05\x0c\x00\x00\x00\x00":    0,
		"\x00\x00\x00\x01\x05":                    0, // it is locked
	} {
		conn := agent(t, answer)
		if n, err := CountKeys(conn); n != want || err != nil {
			t.Errorf("%q: %d keys, %v; want %d", answer, n, err, want)
		}
		// The client that comes next finds the connection as it was.
		got := make([]byte, 4)
		if _, err := conn.Write([]byte("next")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "next" {
			t.Errorf("%q: then comes %q, %v", answer, got, err)
		}
	}
	for _, answer := range []string{"", "HTTP/1.1 400 Bad Request", "\x00\x00\x00\x01\x0c", "\x00\x10\x00\x00\x0c\x00\x00\x00\x03"} {
		if n, err := CountKeys(agent(t, answer)); err == nil {
			t.Errorf("%q: %d keys", answer, n)
		}
	}
}

// Once it has listed its keys, an agent may ask its user, who may be slow.
func TestAgentAsksItsUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			_, _ = io.ReadFull(theirs, make([]byte, len(asked)))
			_, _ = theirs.Write([]byte{0, 0, 0, 5, identitiesAnswer, 0, 0, 0, 1})
			time.Sleep(time.Minute)
			_, _ = theirs.Write([]byte("signed"))
		}()
		if _, err := CountKeys(conn); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "signed" {
			t.Errorf("a minute later comes %q, %v", got, err)
		}
		_ = conn.Close()
	})
}

// A process that has stopped accepts, and says nothing.
func TestSilentAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, theirs := net.Pipe()
		defer theirs.Close()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		began := time.Now()
		if _, err := CountKeys(conn); err == nil || !strings.Contains(err.Error(), "does not answer within 3s") {
			t.Errorf("a silent agent: %v", err)
		}
		if took := time.Since(began); took != AgentTime {
			t.Errorf("it took %s", took)
		}
		_ = conn.Close()
	})
}

// answering is an agent that has an answer, whatever it is asked.
type answering struct{ *bytes.Reader }

func (answering) Write(p []byte) (int, error) { return len(p), nil }

// An agent's answer is read whole and no further, or is an error.
func FuzzCountKeys(f *testing.F) {
	for _, answer := range []string{
		"\x00\x00\x00\x08\x0c\x00\x00\x00\x03keymore", "\x00\x00\x00\x01\x05", "\x00\x00\x00\x05\x0c\xff\xff\xff\xff",
		"\x00\x00\x00\x01\x0c", "\xff\xff\xff\xff\x0c", "\x00\x00\x00\x00\x05", "",
	} {
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		agent := answering{bytes.NewReader(answer)}
		n, err := countKeys(agent)
		if err != nil {
			return
		}
		length := int(binary.BigEndian.Uint32(answer))
		if n < 0 || len(answer)-agent.Len() != 4+length {
			t.Errorf("%x: %d keys, %d bytes are left", answer, n, agent.Len())
		}
	})
}
