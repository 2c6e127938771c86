// Package upstream_test reaches destinations by way of real proxies, and asks
// whole machines which way they would take.
package upstream_test
