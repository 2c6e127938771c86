// Package machine starts and stops the namespace machine: it runs the router
// helper, which owns the router's network namespace and is the parent of the
// machine's PID 1. What happens inside the machine is package guest's matter.
// Only package daemon and the mains may import it.
//
// # Theory of operation
//
// Start runs the helper in a new network namespace. The helper runs the
// machine's PID 1 in namespaces of its own, puts it into the profile's control
// group, builds the router around the link between the two namespaces, lets
// PID 1 go on, and then only hands descriptors to whoever attaches. The daemon
// is not the helper's master: it may die and a new one attaches.
//
//	daemon --exec--> helper (CLONE_NEWNET) --exec--> PID 1 (NEWNS|PID|NET|UTS|IPC, cgroup later)
//
// A helper that was killed is replaced by the daemon: see Resume.
//
// Stop tells the helper; it kills PID 1, with which the kernel ends every
// process, mount and namespace of the machine, removes the control group and
// exits. ForceDown does the same from the outside when the helper can't.
package machine
