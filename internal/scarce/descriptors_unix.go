//go:build unix

package scarce

import "golang.org/x/sys/unix"

// descriptors is how many the process may have now. Go has raised it to the hard
// limit; somebody may change it while we run (prlimit(1)).
func descriptors() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 2 * keptDescriptors // getrlimit(2) knows no error that could happen here
	}
	return min(uint64(limit.Cur), mostDescriptors) //nolint:unconvert // signed on some systems
}
