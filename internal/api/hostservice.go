package api

// Forward is one line of `portolan forward`: a socket of one side that leads to
// one of the other. Endpoints are written unix:PATH or tcp:ADDRESS:PORT.
type Forward struct {
	From   string `json:"from"` // where it listens: host or machine
	Listen string `json:"listen"`
	To     string `json:"to"`
	Error  string `json:"error,omitempty"` // why nobody can connect now
}

// Forwards is the answer to `portolan forward ls`.
type Forwards struct {
	Forwards []Forward `json:"forwards"`          // in force
	Problem  string    `json:"problem,omitempty"` // what is wrong with the file that keeps them, and what to do
}

// SSHAgent says where the ssh-agent's socket of the machine leads.
type SSHAgent struct {
	Socket string        `json:"socket"`          // in the machine, for containers
	Path   string        `json:"path,omitempty"`  // on the host, of the agent that answers; "" for none
	Keys   int           `json:"keys"`            // that the agent has
	Tried  []SSHAgentTry `json:"tried,omitempty"` // in order, up to the one that answers
	Closed bool          `json:"closed,omitempty"`
}

// SSHAgentTry is a place where an agent was looked for.
type SSHAgentTry struct {
	Path   string `json:"path"`
	Source string `json:"source"`          // setting, SSH_AUTH_SOCK or usual place
	Error  string `json:"error,omitempty"` // "" for the agent that answers
}

// SSHAgentHint tells the daemon of SSH_AUTH_SOCK where it may have changed.
type SSHAgentHint struct {
	AuthSock string `json:"authSock"`
}
