// Package guest is what happens inside a namespace machine before and beside
// the engine: its file system view, its control groups, its small firewall
// table, and PID 1. It runs as root of the machine, in cmd/portolan-agent only.
//
// # File system
//
// The machine sees the host's files, so that bind mounts of host paths mean
// what users expect. Only what Portolan must own is hidden:
//
//	/proc, /sys, /sys/fs/cgroup        mounted anew, for the machine's own namespaces
//	/etc/resolv.conf, /etc/hosts       files of the profile, mounted over the host's
//	/run                               a tmpfs that mirrors the host's entries
//	/run/portolan                      the directory shared with the daemon
//	/run/portolan-agent                the agent's own, gone with the machine
//	/run/host-services                 sockets that lead to the host; PID 1 holds them
//	/var/lib/docker, /var/lib/containerd  the profile's engine directory
//	the profile's run directory        hidden: it holds the control socket;
//	                                   docker.sock leads to the engine
//
// A mirrored directory shows every entry of the host's, also those that come
// later: directories as bind mounts, everything else as symbolic links.
package guest
