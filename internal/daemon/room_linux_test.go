package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckRoom(t *testing.T) {
	dir := t.TempDir()
	if err := checkRoom(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := checkRoom(filepath.Join(dir, "missing")); err == nil || !strings.Contains(err.Error(), "PORTOLAN_STATE_DIR") {
		t.Errorf("a directory that is not there: %v", err)
	}
}
