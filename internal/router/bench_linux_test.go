package router

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

// BenchmarkStream sends from the container to a daemon that reads and discards.
func BenchmarkStream(b *testing.B) {
	l := newLab(b)
	l.attach(b, &fakeHandler{open: func(context.Context, portolan.Flow) (datapath.Endpoint, error) {
		return &endpoint{serve: func(conn datapath.Conn) {
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 256<<10))
		}}, nil
	}})
	conn, err := l.dial("tcp", netip.AddrPortFrom(server4, 80), 5*time.Second)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := conn.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConnect connects and closes, one connection at a time.
func BenchmarkConnect(b *testing.B) {
	l := newLab(b)
	l.attach(b, &fakeHandler{open: openEcho})
	for b.Loop() {
		conn, err := l.dial("tcp", netip.AddrPortFrom(server4, 80), 5*time.Second)
		if err != nil {
			b.Fatal(err)
		}
		_ = conn.Close()
	}
}
