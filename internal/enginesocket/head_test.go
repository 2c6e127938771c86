package enginesocket

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func parse(text string) (head, error) {
	raw, err := readHead(bufio.NewReaderSize(strings.NewReader(text), 64))
	if err != nil {
		return head{}, err
	}
	return parseHead(raw)
}

func TestParseHead(t *testing.T) {
	for text, want := range map[string]head{
		"GET /v1.51/info?x=/build HTTP/1.1\r\nHost: api\r\n\r\n":                                          {method: "GET", target: "/v1.51/info?x=/build"},
		"POST /exec/1/start HTTP/1.1\r\nContent-Length: 7\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n": {method: "POST", target: "/exec/1/start", length: 7, upgrade: "tcp"},
		"PUT /x HTTP/1.1\r\ntransfer-ENCODING: \tChunked \r\n\r\n":                                        {method: "PUT", target: "/x", chunked: true},
		"GET / HTTP/1.0\r\n\r\n": {method: "GET", target: "/", old: true},
	} {
		got, err := parse(text)
		if err != nil || got.method != want.method || got.target != want.target || got.length != want.length ||
			got.chunked != want.chunked || got.upgrade != want.upgrade || got.old != want.old {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestParseHeadRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"two lengths":          "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
		"a list of lengths":    "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
		"a sign":               "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
		"no length":            "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
		"a huge length":        "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"length and coding":    "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"another coding":       "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
		"two codings":          "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
		"coding in HTTP/1.0":   "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
		"space before colon":   "POST / HTTP/1.1\r\nContent-Length : 1\r\n\r\n",
		"folded line":          "POST / HTTP/1.1\r\nX: 1\r\n Content-Length: 1\r\n\r\n",
		"bare line feed":       "POST / HTTP/1.1\r\nX: 1\nContent-Length: 1\r\n\r\n",
		"bare carriage return": "POST / HTTP/1.1\r\nX: 1\rContent-Length: 1\r\n\r\n",
		"bare end":             "GET / HTTP/1.1\n\n",
		"empty first line":     "\r\nGET / HTTP/1.1\r\n\r\n",
		"no version":           "GET /\r\n\r\n",
		"space in target":      "GET / x HTTP/1.1\r\n\r\n",
		"zero byte":            "GET / HTTP/1.1\r\nX: \x00\r\n\r\n",
		"half a head":          "GET / HTTP/1.1\r\nHost: api\r\n",
		"too long":             "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxHead) + "\r\n\r\n",
	} {
		var bad badRequest
		if got, err := parse(text); !errors.As(err, &bad) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := parse(""); !errors.Is(err, io.EOF) {
		t.Errorf("nothing: %v", err)
	}
}

func TestAsChunked(t *testing.T) {
	h, err := parse("POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: y\r\n\r\n")
	if want := "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n"; err != nil || string(h.asChunked()) != want {
		t.Errorf("%q, %v", h.asChunked(), err)
	}
}

func TestChunks(t *testing.T) {
	for text, rest := range map[string]string{
		"0\r\n\r\n":                "",
		"3\r\nabc\r\n0\r\n\r\nGET": "GET",
		"A;x=y\r\n0123\n\r\n89x\r\n000\r\nT: u\r\n\r\nx": "x",
	} {
		for size := 1; size <= len(text); size++ { // in pieces of every size
			c, done, used := &chunks{}, false, 0
			for !done {
				if used == len(text) {
					t.Fatalf("%q in pieces of %d has no end", text, size)
				}
				n, end, err := c.walk([]byte(text[used:min(used+size, len(text))]))
				if err != nil {
					t.Fatalf("%q in pieces of %d: %v", text, size, err)
				}
				used, done = used+n, end
			}
			if text[used:] != rest {
				t.Errorf("%q in pieces of %d ends before %q", text, size, text[used:])
			}
		}
	}
	for _, text := range []string{"x\r\n", "-1\r\n", "3\nabc", "3\r\nabcd\r\n", "fffffffffffffffff\r\n", "0\r\nT\n", "\r\n", strings.Repeat("0", maxLine+1)} {
		if _, _, err := (&chunks{}).walk([]byte(text)); err == nil {
			t.Errorf("%.20q is taken", text)
		}
	}
}

// FuzzRequest: what is taken is the same request to net/http, which the engine
// reads it with, body included.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("POST /containers/create HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("POST /load HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\nGET"))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: tcp\r\n\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		mine := bufio.NewReader(bytes.NewReader(text))
		raw, err := readHead(mine)
		if err != nil {
			return
		}
		h, err := parseHead(raw)
		if err != nil {
			return
		}
		theirs := bufio.NewReader(bytes.NewReader(text))
		request, err := http.ReadRequest(theirs)
		if err != nil {
			return // the engine refuses more than we do
		}
		if request.Method != h.method || request.RequestURI != h.target || !h.chunked && request.ContentLength != h.length {
			t.Fatalf("%+v is to net/http %+v", h, request)
		}
		body, err := readBody(mine, &h, maxCreate)
		if err != nil {
			return
		}
		want, err := io.ReadAll(request.Body)
		if err != nil {
			return
		}
		if !bytes.Equal(body, want) {
			t.Fatalf("body %q is to net/http %q", body, want)
		}
		if left, _ := io.ReadAll(mine); !bytes.HasSuffix(text, left) {
			t.Fatalf("%q is left of %q", left, text)
		} else if theirsLeft, _ := io.ReadAll(theirs); !bytes.Equal(left, theirsLeft) {
			t.Fatalf("%q is left, to net/http %q", left, theirsLeft)
		}
	})
}

// What a new CA store waits for.
func TestLasting(t *testing.T) {
	for request, want := range map[string]bool{
		"POST /v1.50/images/create?fromImage=x":    true,
		"POST /images/a/b/push?tag=1":              true,
		"POST /containers/web/wait":                true,
		"POST /build":                              true,
		"POST /images/load?quiet=1":                true,
		"POST /v1.50/containers/create":            false,
		"POST /containers/web/start":               false,
		"GET /containers/web/logs?follow=1":        false,
		"GET /events":                              false,
		"GET /images/create":                       false,
		"POST /networks/create?x=/containers/wait": false,
	} {
		method, target, _ := strings.Cut(request, " ")
		if h := (head{method: method, target: target}); h.lasts() != want {
			t.Errorf("%s: %v", request, !want)
		}
	}
}
