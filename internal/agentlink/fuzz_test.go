package agentlink

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/portolan"
)

// checkingDaemon wants what a daemon may rely on.
type checkingDaemon struct{ *testing.T }

func (d checkingDaemon) want(b portolan.Binding) error {
	if err := checkBinding(b); err != nil {
		d.Errorf("the daemon gets %+v: %v", b, err)
	}
	return nil
}

func (d checkingDaemon) Publish(_ context.Context, b portolan.Binding) error   { return d.want(b) }
func (d checkingDaemon) Renew(_ context.Context, b portolan.Binding) error     { return d.want(b) }
func (d checkingDaemon) Unpublish(_ context.Context, b portolan.Binding) error { return d.want(b) }
func (d checkingDaemon) Release(_ context.Context, b portolan.Binding) error   { return d.want(b) }
func (checkingDaemon) AgentHere()                                              {}
func (checkingDaemon) AgentGone()                                              {}
func (checkingDaemon) SetEngine(api.Engine)                                    {}
func (checkingDaemon) SetNetworks([]netip.Prefix)                              {}
func (d checkingDaemon) SetHostNetwork(n portolan.HostNetwork) {
	for _, l := range n.Listeners {
		if err := d.want(portolan.Binding{Proto: l.Proto, Host: l.Addr, Container: l.Addr}); err != nil {
			d.Error(err)
		}
	}
}

func (checkingDaemon) Listeners() []string { return nil }
func (checkingDaemon) Forward(context.Context, string, func() (*net.UnixConn, error)) error {
	return nil
}

// FuzzRequest sends bodies to everything that an agent may ask for: the machine
// is not trusted to send what our agent sends.
func FuzzRequest(f *testing.F) {
	for _, body := range []string{
		``, `{}`, `[]`, `null`, `{"proto": "tcp", "host": "0.0.0.0:80", "container": "172.17.0.2:80"}`,
		`{"Proto": "udp", "Host": "[::]:53", "Container": "[fd00::2]:53"}`, `["172.17.0.0/16", "::/0"]`,
		`{"ready": true, "restarts": -1}`, `{"used": true, "listeners": [{"proto": "udp", "addr": "[::]:53"}, {"proto": "tcp", "addr": "0.0.0.0:0"}]}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s := &server{daemon: checkingDaemon{t}, log: slog.New(slog.DiscardHandler)}
		routes := s.routes()
		for path, method := range map[string]string{
			pathPublish: http.MethodPost, pathRenew: http.MethodPost, pathUnpublish: http.MethodPost, pathRelease: http.MethodPost,
			pathEngine: http.MethodPut, pathNetworks: http.MethodPut, pathHostNet: http.MethodPut,
		} {
			answer := httptest.NewRecorder()
			routes.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), method, path, bytes.NewReader(body)))
			if answer.Code != http.StatusNoContent && answer.Code != http.StatusBadRequest {
				t.Errorf("%s %s: %d %s", method, path, answer.Code, answer.Body)
			}
		}
	})
}
