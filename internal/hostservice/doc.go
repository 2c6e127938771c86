// Package hostservice carries single sockets between the host and the machine:
// the user's ssh-agent, and what `portolan forward` adds. The agent and the daemon
// import it, each for its own side, and the CLI for its nouns.
//
// # Theory of operation
//
// A Forward listens on one side and leads to the other. Whoever has the listener
// accepts and asks the other side for the target; a client is never served bytes
// before the target has been reached, and is closed at once when it can't be.
//
//	from      listens   asks, over agentlink       dials
//	machine   agent     daemon, by the listener    daemon: the target is in its list
//	host      daemon    agent, by the target       agent
//
// The ssh-agent is a forward from the machine whose target is looked up for each
// connection (Candidates). What the machine names is only ever a listener: it can't
// choose where on the host a connection leads.
//
// An agent that hangs still accepts, since the kernel does. So one is given to a
// client only when it has listed its keys in time (CountKeys), on that connection.
// What the client asks then, the agent may have to ask its user about: no deadline.
//
// A Guard keeps sockets that rule an engine or Portolan from being targets. It
// looks at the socket that is about to be connected, not at its name, so that links
// and bind mounts do not help. A TCP target is known by its port, and when a forward
// is added by what it answers.
//
// The daemon listens in a directory of its own; elsewhere on the host its deputy
// makes the socket (Sockets), hands it over, and removes it.
//
// The list of forwards is a file (Table). Beside it is what it held when it last
// was good, which is in force while it is bad.
//
// Bytes are carried, descriptors (SCM_RIGHTS) are not.
package hostservice
