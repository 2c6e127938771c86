package archtest

import (
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
)

// Time that a computer's user may set decides nothing: it is never compared as
// a number, for then the monotonic reading that time.Time carries is lost.
func TestWallClockDecidesNothing(t *testing.T) {
	number := regexp.MustCompile(`\.Unix(Nano|Milli|Micro)?\(\)|time\.Unix(Milli|Micro)?\([^)]*\.Load`)
	if !number.MatchString("time.Now().UnixNano()") || !number.MatchString("time.Unix(0, last.Load())") || number.MatchString("time.Unix(1, 0)") {
		t.Fatal("the rule finds nothing, or what is allowed")
	}
	allowed := map[string]string{
		"internal/daemon/certificates_linux.go": "tells whether a file has changed",
	}
	seen := map[string]bool{}
	for _, dir := range []string{"internal", "cmd"} {
		err := fs.WalkDir(os.DirFS(root), dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "internal/testimage/") {
				return err
			}
			text := read(t, path)
			for n, line := range strings.Split(text, "\n") {
				if number.MatchString(line) && allowed[path] == "" {
					t.Errorf("%s:%d: %s\ncompares wall-clock time; keep a time.Time, or time.Since of a fixed one", path, n+1, strings.TrimSpace(line))
				}
				seen[path] = seen[path] || number.MatchString(line)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for path := range allowed {
		if !seen[path] {
			t.Errorf("%s needs no exception any more", path)
		}
	}
}
