package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"testing"
)

// module is the path of the module under test.
const module = "github.com/portolan-net/portolan"

// file is what the rules look at in one Go file, whatever system it is for:
// build constraints are ignored, so a Linux file can't hide from a test that
// runs elsewhere, nor a darwin file from one that runs on Linux.
type file struct {
	name     string   // internal/dns/server.go
	pkg      string   // internal/dns
	test     bool     // _test.go
	doc      bool     // holds the package's doc comment
	imports  []string // as written, unquoted
	exported int      // names that other packages can use
	silent   []string // those of them without a comment
	programs []string // literal first arguments of exec.Command and exec.CommandContext
}

// readTree parses the module's own Go files: not engine/ and tools/, modules of
// their own, and not what is built or tested with.
func readTree(t *testing.T, tree fs.FS) []file {
	t.Helper()
	var files []file
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if _, err := fs.Stat(tree, path.Join(name, "go.mod")); (err == nil && name != ".") || skipped(name) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		f, err := parse(name, text)
		if err != nil {
			return err
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func skipped(dir string) bool {
	base := path.Base(dir)
	return base == "testdata" || base == "bin" || base == "engine" && path.Dir(dir) == "." ||
		strings.HasPrefix(base, ".") && base != "."
}

func parse(name string, text []byte) (file, error) {
	tree, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return file{}, err
	}
	f := file{name: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), doc: tree.Doc != nil}
	for _, spec := range tree.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return file{}, err
		}
		f.imports = append(f.imports, imported)
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		if program, ok := startedProgram(n); ok {
			f.programs = append(f.programs, program)
		}
		return true
	})
	for _, decl := range tree.Decls {
		f.countExported(decl)
	}
	return f, nil
}

// countExported counts a declaration's exported names. A comment on a group of
// constants or variables speaks for all of them, a type has its own.
func (f *file) countExported(decl ast.Decl) {
	note := func(name *ast.Ident, documented bool) {
		if !name.IsExported() {
			return
		}
		f.exported++
		if !documented {
			f.silent = append(f.silent, name.Name)
		}
	}
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil || exportedReceiver(d.Recv.List[0].Type) {
			note(d.Name, d.Doc != nil)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				note(s.Name, s.Doc != nil || d.Doc != nil)
			case *ast.ValueSpec:
				for _, name := range s.Names {
					note(name, s.Doc != nil || s.Comment != nil || d.Doc != nil)
				}
			}
		}
	}
}

func exportedReceiver(recv ast.Expr) bool {
	if star, ok := recv.(*ast.StarExpr); ok {
		recv = star.X
	}
	if generic, ok := recv.(*ast.IndexExpr); ok {
		recv = generic.X
	}
	name, ok := recv.(*ast.Ident)
	return ok && name.IsExported()
}

// startedProgram returns X of exec.Command("X", ...) and of its sister with a context.
func startedProgram(n ast.Node) (string, bool) {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return "", false
	}
	callee, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	at := map[string]int{"Command": 0, "CommandContext": 1}
	i, ok := at[callee.Sel.Name]
	if from, isName := callee.X.(*ast.Ident); !ok || !isName || from.Name != "exec" || len(call.Args) <= i {
		return "", false
	}
	literal, ok := call.Args[i].(*ast.BasicLit)
	if !ok {
		return "", false
	}
	program, err := strconv.Unquote(literal.Value)
	return program, err == nil
}

// ours returns internal/x for an import of the module's own package x.
func ours(imported string) (string, bool) {
	return strings.CutPrefix(imported, module+"/")
}

// foreign reports whether an import comes from another module: not ours, and
// with a dot in its first element, which the standard library never has.
func foreign(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	_, own := ours(imported)
	return !own && strings.Contains(first, ".")
}
