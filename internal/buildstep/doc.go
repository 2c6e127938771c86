// Package buildstep shows the steps of a build the host's CA certificates. Package
// agent tells dockerd of it, cmd/portolan-agent is it when run under its name;
// nobody else needs it.
//
// # Theory of operation
//
// BuildKit, which is a part of dockerd, takes no mounts from outside, but runs each
// step by a runc that DOCKER_BUILDKIT_RUNC_COMMAND names (moby,
// builder-next/executor_linux.go). That is us, in the machine: where the setting
// says so, the step's config.json (OCI runtime specification) gets one more mount
// and the variables that name it; then, and for all other commands, we become runc.
//
// The mount lies in the step's /dev, a tmpfs of its own: runc makes the file to
// mount on there, so no layer of the image has a trace of it. A step whose /dev is
// something else gets nothing.
package buildstep
