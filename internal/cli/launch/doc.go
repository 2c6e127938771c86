// Package launch starts the daemon in the background and makes sure that it is
// gone again. Only the CLI uses it.
//
// # Theory of operation
//
// Whoever works on a profile holds an exclusive flock(2) on the profile's lock
// file, whose text is the holder's process id. `up` takes the lock, then starts
// the keeper, `portolan serve --keep`, in a session of its own with two
// descriptors: 3 is the writing end of the progress pipe, 4 the locked file.
// The keeper starts the daemon, `portolan serve`, in the same way, and again
// when it dies (Keep). flock locks belong to the open file, so the lock passes
// on without a moment in which nobody holds it, and ends with keeper and daemon,
// however they end. So the lock says whether a daemon is there even when its
// socket does not answer. A daemon whose keeper dies goes on and puts its own id
// into the lock.
//
//	state      lock held by   control socket      up                   down
//	stopped    nobody         none                start                ForceDown
//	starting   up, keeper     none or "starting"  wait for the holder  SIGTERM to the holder
//	running    keeper         "running"           nothing to do        POST /v1/down
//	hung       keeper         no answer           time-out, says pid   SIGTERM, SIGKILL, ForceDown
//	crashed    nobody         refuses             start                ForceDown
//
// Where somebody removed the runtime directory, nobody holds the lock that can be
// found there; down finds keeper and daemon by the file that they hold (Orphans).
//
// The starting daemon writes api.Step lines into the pipe. Start returns at the
// step "ready". A step with an error, the end of the pipe before "ready", a
// cancelled context or too long a silence end the start: the daemon gets
// SIGTERM and some time to clean up behind itself, then SIGKILL.
package launch
