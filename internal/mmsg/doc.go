// Package mmsg receives and sends several datagrams with one system call
// (recvmmsg(2) and sendmmsg(2)), for those who carry many: packages router, relay
// and publish/forward. It never waits, but for Check, and knows nothing of what the
// datagrams are for. It only works on Linux; elsewhere it is all but empty.
//
// Theory of operation: segmentation offload. Where Offload says so, datagrams that
// follow each other leave as one message with their size beside it (UDP_SEGMENT of
// udp(7)), and the kernel carries them as one packet until somebody needs them
// apart. The other way round a socket gets several in one message (UDP_GRO). Who
// calls Send and Receive sees datagrams only.
//
//	a joined message      is
//	all but the last      of the same size, at most as large as the path's MTU allows
//	the last              of that size or less, never empty
//	all                   at most maxSegments, and maxMessage bytes
//	refused by the kernel sent again one by one; the socket then leaves that size
//	                      and larger ones alone for a while
package mmsg
