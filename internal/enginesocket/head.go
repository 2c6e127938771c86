package enginesocket

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// maxHead bounds a request's head: that of net/http's servers, of which the
// engine is one. docker sends its logins to registries in heads.
const maxHead = 1 << 20

// head is the head of a request in HTTP/1 (RFC 9112).
type head struct {
	raw     []byte // all of it, to the empty line
	method  string
	target  string
	old     bool   // HTTP/1.0
	length  int64  // of the body
	chunked bool   // then length counts for nothing
	upgrade string // what the client would like to speak instead, "" for nothing
	encoded bool   // the body has a Content-Encoding
	fields  []field
}

// field is one line of a head: its name in lower case, and where it stands.
type field struct {
	name, value string
	start, end  int
}

// badRequest is what a request is refused for.
type badRequest string

func (e badRequest) Error() string { return string(e) }

// readHead reads to the first empty line. io.EOF means that there is no further
// request, and nothing else of one.
func readHead(r *bufio.Reader) ([]byte, error) {
	var raw []byte
	for {
		line, err := r.ReadSlice('\n')
		raw = append(raw, line...)
		switch {
		case len(raw) > maxHead:
			return nil, badRequest("head is longer than 1 MiB")
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(raw) > 0:
			return nil, badRequest("request ends within its head")
		case err != nil:
			return nil, err
		case len(raw) == len(line) && len(bytes.TrimRight(line, "\r\n")) == 0:
			return nil, badRequest("request begins with an empty line")
		case bytes.HasSuffix(raw, []byte("\n\r\n")) || bytes.HasSuffix(raw, []byte("\n\n")):
			return raw, nil
		}
	}
}

// requestLine is method, target and version. CONNECT and HTTP/2 have others.
var requestLine = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\\.([01])$")

// fieldName is a name right before its colon.
var fieldName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// parseHead takes a head apart. It refuses what RFC 9112 leaves to the taste of
// a reader wherever that decides where a request ends: bare line feeds, folded
// lines, space before colons, lengths that are repeated, signed or beside a
// transfer coding, and codings other than chunked.
func parseHead(raw []byte) (head, error) {
	h := head{raw: raw}
	pos := 0
	for {
		n := bytes.IndexByte(raw[pos:], '\n')
		if n < 1 || raw[pos+n-1] != '\r' {
			return h, badRequest("line of the head does not end with CR LF")
		}
		line := string(raw[pos : pos+n-1])
		if i := strings.IndexFunc(line, isControl); i >= 0 {
			return h, badRequest("control character in the head")
		}
		switch {
		case pos == 0:
			m := requestLine.FindStringSubmatch(line)
			if m == nil {
				return h, badRequest("first line is none of HTTP/1")
			}
			h.method, h.target, h.old = m[1], m[2], m[3] == "0"
		case line == "":
			if pos+n+1 != len(raw) {
				return h, badRequest("empty line within the head")
			}
			return h, h.frame()
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok || !fieldName.MatchString(name) {
				return h, badRequest("line of the head is no NAME: VALUE")
			}
			h.fields = append(h.fields, field{strings.ToLower(name), strings.Trim(value, " \t"), pos, pos + n + 1})
		}
		pos += n + 1
	}
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// frame finds out where the body ends.
func (h *head) frame() error {
	lengths := 0
	for _, f := range h.fields {
		switch f.name {
		case "content-length":
			n, err := strconv.ParseUint(f.value, 10, 63)
			if lengths++; err != nil || lengths > 1 || f.value[0] == '+' {
				return badRequest("Content-Length is no single number")
			}
			h.length = int64(n)
		case "transfer-encoding":
			if h.chunked || h.old || !strings.EqualFold(f.value, "chunked") {
				return badRequest("Transfer-Encoding is not chunked alone")
			}
			h.chunked = true
		case "upgrade":
			h.upgrade = f.value
		case "content-encoding":
			h.encoded = true
		}
	}
	if h.chunked && lengths > 0 {
		return badRequest("Content-Length beside Transfer-Encoding")
	}
	return nil
}

// hasBody reports whether anything follows the head.
func (h *head) hasBody() bool { return h.chunked || h.length > 0 }

// apiVersion is what may stand before a path of the engine's API.
var apiVersion = regexp.MustCompile(`^/v[0-9]+(\.[0-9]+)*/`)

// path is the target's, without query and version of the API.
func (h *head) path() string {
	path, _, _ := strings.Cut(h.target, "?")
	if v := apiVersion.FindString(path); v != "" {
		return path[len(v)-1:]
	}
	return path
}

// maySwitch reports a request after whose answer the connection may be no HTTP
// any more. Old clients ask for attach and exec without saying Upgrade.
func (h *head) maySwitch() bool {
	path := h.path()
	return h.upgrade != "" || h.method == "POST" &&
		(strings.HasSuffix(path, "/attach") || strings.HasPrefix(path, "/exec/") && strings.HasSuffix(path, "/start"))
}

// lasts reports work whose answer begins at once and ends with it: pull, push,
// build, load, save, export, `docker wait`.
func (h *head) lasts() bool {
	path := h.path()
	return h.method == "GET" && (path == "/images/get" || strings.HasPrefix(path, "/images/") && strings.HasSuffix(path, "/get") ||
		strings.HasPrefix(path, "/containers/") && strings.HasSuffix(path, "/export")) ||
		h.method == "POST" && (path == "/plugins/pull" || path == "/images/create" || path == "/images/load" || path == "/build" ||
			strings.HasPrefix(path, "/images/") && strings.HasSuffix(path, "/push") ||
			strings.HasPrefix(path, "/containers/") && strings.HasSuffix(path, "/wait"))
}

// preparesExec reports the first of the two requests of `docker exec`. A restart
// between them would make the engine forget it.
func (h *head) preparesExec() bool {
	path := h.path()
	return h.method == "POST" && strings.HasPrefix(path, "/containers/") && strings.HasSuffix(path, "/exec")
}

// entersSwarm reports `docker swarm init` and `docker swarm join`.
func (h *head) entersSwarm() bool {
	path := h.path()
	return h.method == "POST" && (path == "/swarm/init" || path == "/swarm/join")
}

// starts is the name or id of the container that is to be started, as the target
// has it; "" for other requests.
func (h *head) starts() string {
	rest, ok := strings.CutPrefix(h.path(), "/containers/")
	container, what, _ := strings.Cut(rest, "/")
	if !ok || h.method != "POST" || what != "start" && what != "restart" {
		return ""
	}
	return container
}

// withTarget is the head's bytes with another target.
func (h *head) withTarget(target string) []byte {
	rest := h.raw[len(h.method)+1+len(h.target):]
	return fmt.Appendf(nil, "%s %s%s", h.method, target, rest)
}

// asChunked is the head's bytes for a body whose length is not known yet.
func (h *head) asChunked() []byte {
	if h.chunked {
		return h.raw
	}
	out := make([]byte, 0, len(h.raw)+len(chunkedField))
	pos := 0
	for _, f := range h.fields {
		if f.name == "content-length" {
			out = append(append(out, h.raw[pos:f.start]...), chunkedField...)
			pos = f.end
		}
	}
	return append(out, h.raw[pos:]...)
}

const chunkedField = "Transfer-Encoding: chunked\r\n"
