//go:build !unix

package forward

import "net"

func (u *UDP) read(conn net.Conn, use func([]byte)) error { return u.readPlain(conn, use) }
