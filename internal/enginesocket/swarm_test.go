package enginesocket

import "testing"

func TestEntersSwarm(t *testing.T) {
	for request, want := range map[string]bool{
		"POST /v1.50/swarm/init": true, "POST /swarm/join": true, "POST /swarm/init?x=y": true,
		"GET /swarm/init": false, "POST /swarm/leave": false, "POST /v1.50/swarm/initial": false, "GET /swarm": false,
	} {
		h, err := parseHead([]byte(request + " HTTP/1.1\r\nHost: docker\r\n\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := h.entersSwarm(); got != want {
			t.Errorf("%s: %v", request, got)
		}
	}
}
