// Package mmsg receives and sends several datagrams with one system call
// (recvmmsg(2) and sendmmsg(2)), for those who carry many: packages router, relay
// and publish/forward. It never waits, and knows nothing of what the datagrams are
// for. It only works on Linux; elsewhere it is empty.
package mmsg
