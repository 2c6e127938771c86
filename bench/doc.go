// Package bench measures whole machines: Portolan in the lab beside plain
// kernel forwarding, the same engine without Portolan, slirp4netns, pasta,
// gvproxy, rootlesskit and the loopback interface. All of it lies in tests, so
// that it can use the lab. `make bench` runs it, as root on Linux;
// docs/benchmarks.md says what the numbers mean. Nothing imports this package.
//
// A contestant is one way to carry traffic, with a way out and a published way
// in; ours_test.go and peers_test.go set them up. The recorder collects samples
// in a report (package report), which writes the tables.
//
// What is compared runs in turns, one short run each in every round, so that a
// computer that is busy or warm treats all alike. A ratio is the median of the
// rounds' ratios, never a quotient of medians. Nothing fails because it is slow.
package bench
