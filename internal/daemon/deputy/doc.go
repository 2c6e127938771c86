// Package deputy is the process that does for a confined daemon what it may not
// do itself (package confine): say which process holds a port, for that means a
// look into other processes; start a router helper in place of one that died, for
// that means to start a program; for root, connect to another user's unix socket,
// the ssh-agent say, unless it is one that hostservice.Guard forbids; make and
// remove the unix sockets of forwards, wherever those are (hostservice.Sockets); open the
// host's /etc/resolv.conf and /etc/hosts, which may have become links to anywhere; and
// report what the user has set up about proxies, for that lies in the user's files. It
// does nothing else and decides nothing. Only package daemon and the command line's
// hidden command import it.
//
// Theory of operation. The daemon starts it before it confines itself, with the
// machine's description on standard input and one end of a pair of SOCK_SEQPACKET
// sockets as descriptor 3. A message is one JSON object, with the router's
// descriptors (router.Estate) where a helper is wanted; each gets one answer. The
// deputy ends when the daemon's end closes, so it never outlives the daemon.
//
// Over a second pair of sockets, descriptor 4, it reports unasked what the user who
// typed `portolan up` has set up about proxies, and what the password command of
// the settings printed (Report). A byte from the daemon has that command run again.
// What is run for a user runs as that user; the command is read from the settings
// themselves, not told by the daemon.
//
// The description comes from before the confinement, so a daemon that was taken
// over can't change which program is started or where it writes. It can have a
// helper started in another network namespace if it gets hold of one; Landlock
// keeps it from those of other processes.
package deputy
