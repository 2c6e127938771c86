package enginesocket

import "testing"

func TestStarts(t *testing.T) {
	for request, want := range map[string]string{
		"POST /v1.50/containers/web/start": "web", "POST /containers/4f5e/restart?t=1": "4f5e", "POST /containers/a%20b/start": "a%20b",
		"GET /containers/web/start": "", "POST /v1.50/containers/web/stop": "", "POST /v1.50/exec/web/start": "",
		"POST /containers/create": "", "POST /containers//start": "", "POST /containers/web/start/more": "",
	} {
		h, err := parseHead([]byte(request + " HTTP/1.1\r\nHost: docker\r\n\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := h.starts(); got != want {
			t.Errorf("%s starts %q, want %q", request, got, want)
		}
	}
}
