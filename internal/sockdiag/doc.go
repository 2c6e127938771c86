// Package sockdiag lists the TCP and UDP sockets of the network that this process
// is in, by inet_diag dumps (sock_diag(7)). The kernel picks them by state and by
// port, so that a busy host's connections cost little: reading /proc/net/tcp costs
// a line of text for each of them. It needs no privilege.
//
// It is not for finding out who holds a socket. Where the kernel has no inet_diag,
// there are no sockets to be seen.
package sockdiag
