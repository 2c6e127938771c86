package testimage

import (
	"debug/elf"
	"fmt"
)

// isStatic reports whether the program at path needs no dynamic linker, which
// an image of ours does not hold.
func isStatic(path string) (bool, error) {
	file, err := elf.Open(path)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	defer file.Close()
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			return false, nil
		}
	}
	return true, nil
}
