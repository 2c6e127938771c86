package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/portolan-net/portolan/internal/api"
)

// QueryDNS asks how containers are answered when they ask for a name.
func (c *Client) QueryDNS(ctx context.Context, name, qtype string) (api.DNSAnswer, error) {
	var answer api.DNSAnswer
	query := url.Values{"name": {name}, "type": {qtype}}
	if err := c.do(ctx, http.MethodGet, "/v1/dns/query?"+query.Encode(), &answer); err != nil {
		return api.DNSAnswer{}, wrap("query names", err)
	}
	return answer, nil
}
