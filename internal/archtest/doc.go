// Package archtest holds tests only: who may import whom, which modules from
// outside are used and why, and that each package says what it is for. The
// rules stand in rules_test.go, in words in docs/architecture.md. Nothing
// imports this package.
package archtest
