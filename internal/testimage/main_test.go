//go:build linux

package testimage_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// testContext is for what belongs to all tests.
var testContext = context.Background()

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}
