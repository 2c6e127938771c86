package client

import (
	"context"
	"net/http"

	"github.com/portolan-net/portolan/internal/api"
)

// Forwards lists what AddForward added.
func (c *Client) Forwards(ctx context.Context) (api.Forwards, error) {
	var list api.Forwards
	if err := c.do(ctx, http.MethodGet, "/v1/forwards", &list); err != nil {
		return api.Forwards{}, wrap("list forwards", err)
	}
	return list, nil
}

// AddForward adds a forward and returns it as it listens.
func (c *Client) AddForward(ctx context.Context, f api.Forward) (api.Forward, error) {
	var added api.Forward
	if err := c.send(ctx, http.MethodPost, "/v1/forwards", f, &added); err != nil {
		return api.Forward{}, wrap("add forward", err)
	}
	return added, nil
}

// RemoveForward ends the forward with that listener.
func (c *Client) RemoveForward(ctx context.Context, f api.Forward) error {
	if err := c.send(ctx, http.MethodDelete, "/v1/forwards", f, nil); err != nil {
		return wrap("remove forward", err)
	}
	return nil
}

// SSHAgent asks where containers' ssh-agent leads now.
func (c *Client) SSHAgent(ctx context.Context) (api.SSHAgent, error) {
	var agent api.SSHAgent
	if err := c.do(ctx, http.MethodGet, "/v1/ssh-agent", &agent); err != nil {
		return api.SSHAgent{}, wrap("ask for the ssh-agent", err)
	}
	return agent, nil
}

// HintSSHAgent tells the daemon what SSH_AUTH_SOCK is now.
func (c *Client) HintSSHAgent(ctx context.Context, authSock string) error {
	return c.send(ctx, http.MethodPost, "/v1/ssh-agent", api.SSHAgentHint{AuthSock: authSock}, nil)
}
