package testimage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Outcome is how a command ended, in one word.
type Outcome string

// The outcomes. For TCP, UDP and ICMP alike: what the kernel reported to the program.
const (
	OK              Outcome = "ok"               // did what it was asked to
	Listening       Outcome = "listening"        // a server stands; it prints a line for each connection that ends, too
	Connected       Outcome = "connected"        // TCP: the handshake is done. UDP: an answer came
	Refused         Outcome = "refused"          // RST to a SYN; ICMP port unreachable
	HostUnreachable Outcome = "host-unreachable" // EHOSTUNREACH
	NetUnreachable  Outcome = "net-unreachable"  // ENETUNREACH
	Timeout         Outcome = "timeout"          // silence
	Reset           Outcome = "reset"            // RST on a connection that stood
	Closed          Outcome = "closed"           // FIN before what was expected
	Mismatch        Outcome = "mismatch"         // an answer, but not the right one
	Prohibited      Outcome = "prohibited"       // EACCES or EPERM
	TooBig          Outcome = "too-big"          // EMSGSIZE
	NoName          Outcome = "no-name"          // DNS: NXDOMAIN, or a name without addresses
	NoData          Outcome = "no-data"          // DNS: the name exists, this record type does not
	ServFail        Outcome = "servfail"         // DNS: SERVFAIL
	Failed          Outcome = "failed"           // something else, see Error
)

// Result is the line that each command of the toolbox prints. A field that a
// command has nothing to say about is left out.
type Result struct {
	Command   string      `json:"command"`
	Outcome   Outcome     `json:"outcome"`
	Elapsed   int64       `json:"elapsed_ms"`
	Error     string      `json:"error,omitempty"`
	Local     string      `json:"local,omitempty"`     // own address, "ip:port"
	Remote    string      `json:"remote,omitempty"`    // the other side's, as seen here
	Bytes     int64       `json:"bytes,omitempty"`     // payload sent or received
	SHA256    string      `json:"sha256,omitempty"`    // of that payload; DNS: of the answer without its id and its TTLs
	Status    int         `json:"status,omitempty"`    // HTTP status
	Body      string      `json:"body,omitempty"`      // the answer's first 4 KiB when it is text
	RTT       float64     `json:"rtt_ms,omitempty"`    // ping, the last answer
	Answers   []string    `json:"answers,omitempty"`   // DNS: record data
	Truncated bool        `json:"truncated,omitempty"` // DNS: the UDP answer was cut and came again over TCP
	Ifaces    []Interface `json:"interfaces,omitempty"`

	Count int64   `json:"count,omitempty"`  // connections, packets
	P50   float64 `json:"p50_ms,omitempty"` // connect-times: of a connect
	P99   float64 `json:"p99_ms,omitempty"`

	Ends map[Outcome]int `json:"ends,omitempty"` // hold: how many connections ended in which way
}

// Interface is one network interface as a container sees it.
type Interface struct {
	Name      string   `json:"name"`
	MTU       int      `json:"mtu"`
	MAC       string   `json:"mac,omitempty"`
	Up        bool     `json:"up"`
	Addresses []string `json:"addresses"` // "ip/bits"
}

// Visitor is the body of the toolbox's web server at "/".
type Visitor struct {
	Client string `json:"client"` // "ip:port", as the server sees it
	Local  string `json:"local"`  // "ip:port" that was reached
	Host   string `json:"host"`   // the Host header
	Name   string `json:"name"`   // of the server: -name, or the host's name
	Method string `json:"method"`
	Path   string `json:"path"`
}

// Parse reads the last line of a command's output.
func Parse(output []byte) (Result, error) {
	line := bytes.TrimSpace(output)
	if i := bytes.LastIndexByte(line, '\n'); i >= 0 {
		line = line[i+1:]
	}
	var r Result
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("parse toolbox output %q: %w", output, err)
	}
	return r, nil
}

// Duration is how long the command took.
func (r Result) Duration() time.Duration { return time.Duration(r.Elapsed) * time.Millisecond }

// Stream is an endless stream of bytes that looks random and is always the
// same: what stream-send, udp-send and the web server's /bytes/N send.
func Stream() io.Reader { return rand.NewChaCha8([32]byte([]byte("portolan: the sea chart of ports"))) }
