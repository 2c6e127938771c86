//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/portolan-net/portolan/internal/testimage"
)

// The messages that list an ssh-agent's keys; draft-ietf-sshm-ssh-agent, sections
// 3.1 and 3.5.
const (
	requestIdentities = 11
	identitiesAnswer  = 12
	maxIdentities     = 256 << 10
)

// sshKeys asks an ssh-agent for its keys, and says how many these are.
func sshKeys(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("ssh-keys")
	timeout := flags.Duration("timeout", 10*time.Second, "for the whole answer")
	conn, err := (&net.Dialer{Timeout: *timeout}).DialContext(ctx, "unix", parse(flags, args, 1, 1)[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(*timeout)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{0, 0, 0, 1, requestIdentities}); err != nil {
		return err
	}
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	length := binary.BigEndian.Uint32(size[:])
	if length < 5 || length > maxIdentities { // the type, and how many
		r.Outcome = testimage.Mismatch
		return fmt.Errorf("an answer of %d bytes", length)
	}
	answer := make([]byte, length)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if answer[0] != identitiesAnswer {
		r.Outcome = testimage.Mismatch
		return fmt.Errorf("an answer of type %d", answer[0])
	}
	sum := sha256.Sum256(answer)
	r.Bytes, r.Count, r.SHA256 = int64(length), int64(binary.BigEndian.Uint32(answer[1:])), hex.EncodeToString(sum[:])
	return nil
}
