package relay

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/portolan-net/portolan/internal/datapath"
)

// ioCopy is what TCP is measured against: two io.Copy.
func ioCopy(_ context.Context, a, b datapath.Conn) {
	var group sync.WaitGroup
	for _, ends := range [][2]datapath.Conn{{a, b}, {b, a}} {
		group.Go(func() {
			_, _ = io.Copy(ends[1], ends[0])
			_ = ends[1].CloseWrite()
		})
	}
	group.Wait()
	_, _ = a.Close(), b.Close()
}

func relayTCP(ctx context.Context, a, b datapath.Conn) { TCP(ctx, a, b) }

// between starts run between two connections and returns their outer ends.
func between(b *testing.B, run func(context.Context, datapath.Conn, datapath.Conn)) (left, right *net.TCPConn) {
	left, nearLeft := pair(b)
	nearRight, right := pair(b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(b.Context(), nearLeft, nearRight)
	}()
	b.Cleanup(func() {
		_, _ = left.Close(), right.Close()
		<-done
	})
	return left, right
}

func BenchmarkStream(b *testing.B) {
	for name, run := range map[string]func(context.Context, datapath.Conn, datapath.Conn){"relay": relayTCP, "io.Copy": ioCopy} {
		b.Run(name, func(b *testing.B) {
			left, right := between(b, run)
			const step = 128 << 10
			b.SetBytes(step)
			go func() {
				data := make([]byte, step)
				for range b.N {
					if _, err := left.Write(data); err != nil {
						return
					}
				}
			}()
			buf := make([]byte, step)
			b.ResetTimer()
			for range b.N {
				if _, err := io.ReadFull(right, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	for name, run := range map[string]func(context.Context, datapath.Conn, datapath.Conn){"relay": relayTCP, "io.Copy": ioCopy} {
		b.Run(name, func(b *testing.B) {
			left, right := between(b, run)
			go func() { _, _ = io.Copy(struct{ io.Writer }{right}, struct{ io.Reader }{right}) }()
			buf := make([]byte, 100)
			for range b.N {
				if _, err := left.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(left, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkConnection(b *testing.B) {
	for name, run := range map[string]func(context.Context, datapath.Conn, datapath.Conn){"relay": relayTCP, "io.Copy": ioCopy} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				left, right := between(b, run)
				_, _ = left.Write([]byte("question"))
				_, _ = left.CloseWrite(), right.CloseWrite()
				_, _ = io.ReadAll(right)
				_, _ = io.ReadAll(left)
				_, _ = left.Close(), right.Close()
			}
		})
	}
}
