package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/portolan-net/portolan/internal/api"
)

// Route asks how a destination, a URL or host:port, is reached; container "" for
// the engine and containers in general.
func (c *Client) Route(ctx context.Context, destination, container string) (api.Routes, error) {
	var routes api.Routes
	query := url.Values{"url": {destination}}
	if container != "" {
		query.Set("container", container)
	}
	if err := c.do(ctx, http.MethodGet, "/v1/route?"+query.Encode(), &routes); err != nil {
		return api.Routes{}, wrap("find route", err)
	}
	return routes, nil
}
