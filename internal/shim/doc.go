// Package shim is the agent's side of what the engine executes in place of its
// docker-proxy: cmd/portolan-shim, which is C. Both run inside the machine; the
// agent's binary imports the package, nothing else. What a published port means
// on the host is package publish's business.
//
// Theory of operation. dockerd starts one shim for each binding and gives it a
// status pipe (descriptor 3) and the socket that it bound in the machine
// (descriptor 4). The contract is moby's (cmd/docker-proxy/main_linux.go and
// daemon/libnetwork/portmapper/proxy_linux.go in v2.0.0-beta.24): the flags that
// parse reads; "0\n" on the pipe, or "1\n" and a message, within 16 s; SIGINT
// ends the shim, and the engine waits for that without bound. When dockerd dies
// the kernel sends SIGTERM (PR_SET_PDEATHSIG). Since dockerd 28 the TCP socket
// listens already; older ones pass none.
//
// The shim hands flags and socket to the agent over a unix socket of sequenced
// packets, and waits. The connection between them is the binding's life:
//
//	shim sends                  agent does                           answers
//	publish, socket             asks the daemon, serves the socket   0, or 1 and the reason;
//	                                                                 0 for swarm's routing mesh,
//	                                                                 or when nobody answers
//	renew, socket               serves the socket, tells the daemon  0 at once
//	                            when it can
//	unpublish                   closes the socket, tells the daemon  0
//	unpublish (a new           tells the daemon                      0
//	connection)
//	end of file                 closes the socket, tells the daemon
//	                            that the engine is gone: the host's
//	                            port stays for a while
//
// A message is one packet: the verb and the engine's flags, with a zero byte
// before each. An answer is what the engine wants on the status pipe; so the shim
// understands neither. When the agent dies the shim keeps its copy of the socket,
// connects again and renews. When dockerd dies every copy is closed at once,
// since its successor binds the same port.
//
// The agent serves the socket because published ports answer inside the machine
// too (`docker push localhost:5000/x`). Connections from the host never come this
// way: the daemon dials the container itself.
package shim
