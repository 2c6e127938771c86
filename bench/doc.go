// Package bench measures whole machines: Portolan in the lab beside plain
// kernel forwarding, slirp4netns, pasta, the loopback interface and the same
// engine without Portolan. All of it lies in tests, so that it can use the lab.
// `make bench` runs it, as root on Linux; docs/benchmarks.md says what the
// numbers mean. Nothing imports this package.
//
// What is compared runs in turns, one short run each in every round, so that a
// computer that is busy or warm treats all alike. A ratio is the median of the
// rounds' ratios, never a quotient of medians. Nothing here fails because
// something is slow.
package bench
