package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/cli/launch"
)

// progress shows the steps of a start. On a terminal the step that runs is a
// line without an end, which its result replaces; elsewhere only results are
// printed, each on a line. Failed steps are left to the error message.
type progress struct {
	out      io.Writer
	terminal bool
	json     bool
	open     bool // a line without an end is there
}

func (g *global) newProgress(out io.Writer) *progress {
	return &progress{out: out, terminal: isTerminal(out), json: g.json}
}

func isTerminal(w any) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

func (p *progress) step(s api.Step) {
	switch {
	case p.json:
		_ = writeJSON(p.out, s, "")
	case s.Error != "", s.Name == launch.ReadyStep:
		p.end()
	case s.Done:
		p.clear()
		_, _ = fmt.Fprintf(p.out, "  %s%s%8s\n", s.Name, strings.Repeat(" ", max(1, 44-len(s.Name))), seconds(s.Took))
	case p.terminal:
		p.clear()
		_, _ = fmt.Fprintf(p.out, "  %s ...", s.Name)
		p.open = true
	}
}

// clear removes the line without an end.
func (p *progress) clear() {
	if p.open {
		_, _ = io.WriteString(p.out, "\r\x1b[K")
		p.open = false
	}
}

// end leaves the cursor at the start of a line, whatever was shown.
func (p *progress) end() {
	if p.open {
		_, _ = io.WriteString(p.out, "\n")
		p.open = false
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
