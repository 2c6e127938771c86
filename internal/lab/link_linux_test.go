package lab

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestLinkDownAndUp(t *testing.T) {
	l := New(t)
	l.StartTCPEcho(t, l.Internet, WebV4+":7")
	link := l.Link("host")
	carrier := func() string { return strings.TrimSpace(l.Host.Run(t, "cat", "/sys/class/net/lan0/carrier")) }
	if err := link.Down(); err != nil {
		t.Fatal(err)
	}
	if got := carrier(); got != "0" {
		t.Errorf("carrier = %s with the cable pulled", got)
	}
	if err := dial(t, l.Host, WebV4+":7", 300*time.Millisecond); err == nil {
		t.Error("a connection crosses a link that is down")
	}
	if err := link.Up(); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the carrier is back", func() bool { return carrier() == "1" })
	waitUntil(t, "connections work again", func() bool { return dial(t, l.Host, WebV4+":7", time.Second) == nil })
	defer func() {
		if recover() == nil {
			t.Error("Link of an unknown name returns")
		}
	}()
	l.Link("nowhere")
}

func TestLinkReplaced(t *testing.T) {
	l := New(t)
	l.StartTCPEcho(t, l.Internet, WebV4+":7")
	link := l.Link("host")
	index := func() string { return l.Host.Run(t, "cat", "/sys/class/net/lan0/ifindex") }
	was := index()
	if err := link.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := dial(t, l.Host, WebV4+":7", 300*time.Millisecond); err == nil {
		t.Error("a connection stands without an interface")
	}
	if err := link.Replace(); err != nil {
		t.Fatal(err)
	}
	if now := index(); now == was {
		t.Errorf("the interface is still %s", now)
	}
	waitUntil(t, "connections work again", func() bool { return dial(t, l.Host, WebV4+":7", time.Second) == nil })
}

func TestLinkLoss(t *testing.T) {
	l := New(t)
	l.StartUDPEcho(t, l.Internet, WebV4+":7")
	c, err := l.Host.Dial(t.Context(), "udp", WebV4+":7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const sent = 400
	for _, step := range []struct {
		share    float64
		from, to int // of the answers; loss strikes both ways
	}{{0, sent, sent}, {0.5, sent / 8, sent * 3 / 8}, {1, 0, 0}, {0, sent, sent}} {
		if err := l.Link("host").SetLoss(step.share); err != nil {
			t.Fatal(err)
		}
		if got := answers(t, c, sent); got < step.from || got > step.to {
			t.Errorf("loss %v: %d of %d answers, want %d to %d", step.share, got, sent, step.from, step.to)
		}
	}
	if err := l.Link("host").SetLoss(1.5); err == nil {
		t.Error("a loss of 1.5 is accepted")
	}
}

// answers sends datagrams and counts the echoes.
func answers(t *testing.T, c net.Conn, sent int) (got int) {
	t.Helper()
	buf := make([]byte, 16)
	for range sent {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(2 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(buf); err == nil {
			got++
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // late ones
	for {
		if _, err := c.Read(buf); errors.Is(err, os.ErrDeadlineExceeded) {
			return got
		}
		got++
	}
}

func TestLinkRate(t *testing.T) {
	l := New(t)
	l.StartWeb(t, l.Internet, WebV4+":80")
	fetch := func() time.Duration {
		start := time.Now()
		l.Host.Run(t, "curl", "-sS", "-m", "20", "-o", "/dev/null", "http://"+WebV4+"/bytes/2000000")
		return time.Since(start)
	}
	if err := l.Link("host").SetRate(16_000_000); err != nil { // a second for 2 MB
		t.Fatal(err)
	}
	if took := fetch(); took < 700*time.Millisecond || took > 5*time.Second {
		t.Errorf("2 MB at 16 Mbit/s took %v, want about a second", took)
	}
	if err := l.Link("host").SetRate(0); err != nil {
		t.Fatal(err)
	}
	if took := fetch(); took > 500*time.Millisecond {
		t.Errorf("2 MB without a limit took %v", took)
	}
}

// Many kernels lack netem. Then SetDelay says so and leaves the link as it was.
func TestLinkDelay(t *testing.T) {
	l := New(t)
	l.StartTCPEcho(t, l.Internet, WebV4+":7")
	const delay = 50 * time.Millisecond
	err := l.Link("host").SetDelay(delay)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Fatal(err)
	}
	start := time.Now()
	if err := dial(t, l.Host, WebV4+":7", patience); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	if err == nil && took < 2*delay {
		t.Errorf("a connection over %v each way stands after %v", delay, took)
	}
	if err != nil && took > delay {
		t.Errorf("SetDelay: %v, yet a connection takes %v", err, took)
	}
}

func TestMTU(t *testing.T) {
	l := New(t, WithMTU(65520))
	if got := strings.TrimSpace(l.Host.Run(t, "cat", "/sys/class/net/lan0/mtu")); got != "65520" {
		t.Errorf("MTU = %s, want 65520", got)
	}
}
