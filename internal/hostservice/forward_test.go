package hostservice

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
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

func TestPlace(t *testing.T) {
	for _, c := range []struct{ from, listen, to, want, err string }{
		{"machine", "unix:a.sock", "unix:/x", "unix:/run/host-services/a.sock", ""},
		{"machine", "unix:/run/host-services/a.sock", "tcp:1.2.3.4:5", "unix:/run/host-services/a.sock", ""},
		{"machine", "tcp:[::1]:5", "unix:/x", "tcp:[::1]:5", ""},
		{"host", "unix:a.sock", "unix:/x", "unix:/h/a.sock", ""},
		{"machine", "unix:/tmp/a.sock", "unix:/x", "", "/run/host-services"},
		{"machine", "unix:/run/host-services/a/b.sock", "unix:/x", "", "/run/host-services"},
		{"machine", "unix:ssh-auth.sock", "unix:/x", "", "portolan ssh-agent use"},
		{"machine", "unix:a b", "unix:/x", "", "letters"},
		{"machine", "unix:" + strings.Repeat("a", 100), "unix:/x", "", "longer than 107"},
		{"machine", "tcp:0.0.0.0:5", "unix:/x", "", "127.0.0.1"},
		{"machine", "tcp:192.168.65.3:5", "unix:/x", "", "127.0.0.1"},
		{"host", "tcp:0.0.0.0:5", "unix:/x", "", "127.0.0.1"},
		{"host", "unix:/run/host-services/a.sock", "unix:/x", "", "/h"},
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
		got, err := Forward{From: Side(c.from), Listen: listen, To: to}.Place("/h")
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
		placed, err := Forward{From: Machine, Listen: e, To: SSHAgent}.Place("/h")
		if err == nil && e.Network == "unix" && !strings.HasPrefix(placed.Listen.Address, MachineDir+"/") {
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

// agent answers with fixed bytes.
type agent struct {
	bytes.Buffer
	answer *bytes.Reader
}

func (a *agent) Read(p []byte) (int, error) { return a.answer.Read(p) }

func TestCountKeys(t *testing.T) {
	a := &agent{answer: bytes.NewReader([]byte{0, 0, 0, 5, 12, 0, 0, 0, 3, 99})}
	if n, err := CountKeys(a); n != 3 || err != nil || !bytes.Equal(a.Bytes(), []byte{0, 0, 0, 1, 11}) {
		t.Errorf("CountKeys = %d, %v after %v", n, err, a.Bytes())
	}
	for _, answer := range []string{"", "HTTP/1.1 400 Bad Request", "\x00\x00\x00\x01\x05"} {
		if n, err := CountKeys(&agent{answer: bytes.NewReader([]byte(answer))}); err == nil {
			t.Errorf("%q: %d keys", answer, n)
		}
	}
}
