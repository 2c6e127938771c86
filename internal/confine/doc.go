// Package confine takes from the running process what it will not need again:
// capabilities, system calls and paths. What it takes never comes back, and the
// process's children do not get it either. It knows nothing of what the process
// is for. The daemon imports it.
//
// Theory of operation. Five things, in this order, for all threads at once:
//
//	capabilities   all but the ones to keep leave every set (capabilities(7))
//	no_new_privs   no program that is started can bring any back (prctl(2))
//	Landlock       files outside the named directories can't be opened, made or
//	               removed; other processes can't be looked into (landlock(7))
//	seccomp        the calls of denied, sockets that are neither TCP, UDP, ICMP,
//	               Unix nor netlink, and new namespaces fail with EPERM
//	               (seccomp(2), SECCOMP_SET_MODE_FILTER)
//
// Landlock acts on open, not on use: descriptors that are open already, or are
// handed over by another process, go on working. A Landlock domain also ends the
// look into other processes (/proc/PID/fd), whatever its paths.
//
// The filter names what is refused and lets the rest pass, because the Go
// runtime and the libraries use calls that differ between releases; a list of
// what is allowed would break in the field. The kernel remembers for each call
// number whether the filter always lets it pass, so read, write and splice cost
// no more than before.
package confine
