// Package socket has TCP connections of the kernel that no poller watches yet.
//
// Go's net package enters each connection into its poller, asks for both
// addresses and sets six options, and whoever wants to watch the socket in a way
// of his own must undo that first. A TCP costs the system calls that are needed:
// accept4(2) and getsockname(2), or socket(2) and connect(2). It is a net.Conn as
// well; used as one, it becomes an ordinary connection of package net.
package socket
