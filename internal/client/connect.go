package client

import (
	"context"
	"net/http"

	"github.com/portolan-net/portolan/internal/api"
)

// ConnectOffer asks whether the host may be connected; the error says why not.
func (c *Client) ConnectOffer(ctx context.Context) (api.ConnectOffer, error) {
	var offer api.ConnectOffer
	if err := c.do(ctx, http.MethodGet, "/v1/connect", &offer); err != nil {
		return api.ConnectOffer{}, wrap("connect", err)
	}
	return offer, nil
}

// Names asks for the names of running containers.
func (c *Client) Names(ctx context.Context) (api.Names, error) {
	var names api.Names
	if err := c.do(ctx, http.MethodGet, "/v1/names", &names); err != nil {
		return nil, wrap("list names of containers", err)
	}
	return names, nil
}
