package daemon

import (
	"fmt"
	"os"
)

// room is what must be free for a start; an engine that can't write fails late
// and says little.
const room = 1 << 20

// checkRoom writes and removes a file of that size.
func checkRoom(dir string) error {
	hint := "make it writable, or set PORTOLAN_STATE_DIR to another directory"
	file, err := os.CreateTemp(dir, ".room-*")
	if err == nil {
		defer os.Remove(file.Name())
		defer file.Close()
		hint = "free some space there, or set PORTOLAN_STATE_DIR to another directory"
		_, err = file.Write(make([]byte, room))
	}
	if err != nil {
		return fmt.Errorf("write to state directory: %w; %s", err, hint)
	}
	return nil
}
