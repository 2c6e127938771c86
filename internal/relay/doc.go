// Package relay moves the bytes of a flow between its two sockets: TCP streams
// between two connections, UDP datagrams and ICMP echo requests between the
// machine's addresses and sockets of the host. It decides nothing: whoever calls
// it (packages egress and publish) has chosen both ends already.
package relay
