// Package poll is a few threads that wait for descriptors outside Go's poller,
// and do at once what is to be done when one is ready. It is for what happens
// thousands of times a second, and for nothing that may wait. Everything that
// carries packets may import it. It only works on Linux; elsewhere it is empty.
package poll
