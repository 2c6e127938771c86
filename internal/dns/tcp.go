package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
)

const (
	// idleTime is how long a connection may go without a whole query (RFC 7766
	// section 6.2.3 asks for a few seconds).
	idleTime = 10 * time.Second
	// writeTime is how long a client may refuse to read an answer.
	writeTime = 5 * time.Second
	// maxPipelined bounds the queries of one connection that are being answered;
	// then its next one is not read.
	maxPipelined = 32
)

// ServeTCP answers the queries of one connection, several at a time and in the
// order in which answers come (RFC 7766 section 6.2.1.1), and closes it. It
// returns when the client has closed and has its answers, after idleTime without
// a query, or when ctx ends. It needs no Run.
func (s *Server) ServeTCP(ctx context.Context, conn datapath.Conn) {
	defer conn.Close()
	client := clientOf(conn)
	place, ok := s.conns.Enter(client)
	if !ok {
		s.log.Debug("connection dropped", "client", client)
		return
	}
	defer s.conns.Leave(place)
	stream := &stream{conn: conn, slots: make(chan struct{}, maxPipelined)}

	var handlers sync.WaitGroup
	defer handlers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // before waiting: the losers of races need not go on
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	for {
		msg, err := stream.read()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.log.Debug("connection ends", "client", client, "err", err)
			}
			stream.drain()
			return
		}
		stream.slots <- struct{}{}
		handlers.Go(func() { s.respond(ctx, msg, overTCP, stream.answer) })
	}
}

// clientOf returns the address that limits count, which is not valid where the
// connection has no IP address (in tests).
func clientOf(conn datapath.Conn) netip.Addr {
	addr, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	return addr.Addr()
}

// stream is the client's side of ServeTCP.
type stream struct {
	conn  datapath.Conn
	slots chan struct{} // holds one element for each query being answered

	writing sync.Mutex // one answer at a time
}

// read returns the next query. A message without an id, or longer than any query,
// is the end: what follows can't be trusted either. An idle connection holds no buffer.
func (s *stream) read() ([]byte, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(idleTime)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(s.conn, length[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint16(length[:])
	if size > maxQuery {
		return nil, errMalformed
	}
	msg := make([]byte, size)
	if _, err := io.ReadFull(s.conn, msg); err != nil {
		return nil, err
	}
	if len(msg) < headerSize {
		return nil, errMalformed
	}
	return msg, nil
}

// answer writes an answer and frees the query's place.
func (s *stream) answer(answer []byte) {
	defer func() { <-s.slots }()
	if answer == nil {
		return
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	_ = s.conn.SetWriteDeadline(time.Now().Add(writeTime))
	if err := writeMessage(s.conn, answer); err != nil {
		_ = s.conn.Close() // part of an answer may be out: nothing can follow it
	}
}

// drain waits until every query has its answer.
func (s *stream) drain() {
	for range maxPipelined {
		s.slots <- struct{}{}
	}
}
