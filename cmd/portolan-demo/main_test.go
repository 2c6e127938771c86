package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestAnswer(t *testing.T) {
	for accept, want := range map[string][]string{
		"":                  {"text/plain", "I see you as    192.0.2.1, port 1234", "You asked for   localhost:8000"},
		"*/*":               {"text/plain", "Hello from a container"},
		"text/html,*/*;q=1": {"text/html", "<code>192.0.2.1</code>, port <code>1234</code>", "<code>localhost:8000</code>"},
	} {
		t.Run(accept, func(t *testing.T) {
			request := httptest.NewRequest(http.MethodGet, "http://localhost:8000/", nil)
			request.Header.Set("Accept", accept)
			response := httptest.NewRecorder()
			answer(response, request)
			said := response.Result().Header.Get("Content-Type") + response.Body.String()
			for _, part := range want {
				if !strings.Contains(said, part) {
					t.Errorf("no %q in %s", part, said)
				}
			}
		})
	}
}

func TestAnswerEscapes(t *testing.T) {
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	request.Host = "<script>"
	request.Header.Set("Accept", "text/html")
	response := httptest.NewRecorder()
	answer(response, request)
	if strings.Contains(response.Body.String(), "<script>") {
		t.Error("the Host header reaches the page as it is")
	}
}

func TestServeEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := serve(ctx, "127.0.0.1:0"); err != nil {
		t.Error(err)
	}
	if err := serve(t.Context(), "256.0.0.1:0"); err == nil {
		t.Error("listening on no address worked")
	}
}
