package proxy

import (
	"fmt"

	"github.com/dop251/goja"
	"github.com/dop251/goja/ast"
	"github.com/dop251/goja/file"
	"github.com/dop251/goja/parser"
)

// noteLine is what the returns of FindProxyForURL call first, with their line.
const noteLine = "__portolan_line"

// compileScript compiles a script whose FindProxyForURL tells by which return it
// ended.
func compileScript(name, text string) (*goja.Program, error) {
	// A source map that a script names is not to be loaded.
	program, err := goja.Parse(name, text, parser.WithDisableSourceMaps)
	if err != nil {
		return nil, fmt.Errorf("it is no JavaScript: %s", printable(err.Error()))
	}
	for _, statement := range program.Body {
		if f := entryFunction(statement); f != nil {
			marker{program.File}.list(f.Body.List)
		}
	}
	compiled, err := goja.CompileAST(program, false)
	if err != nil {
		return nil, fmt.Errorf("it is no JavaScript: %s", printable(err.Error()))
	}
	return compiled, nil
}

// entryFunction finds `function FindProxyForURL` and `var FindProxyForURL = function`.
func entryFunction(s ast.Statement) *ast.FunctionLiteral {
	switch s := s.(type) {
	case *ast.FunctionDeclaration:
		if s.Function.Name != nil && s.Function.Name.Name.String() == entryPoint {
			return s.Function
		}
	case *ast.VariableStatement:
		for _, b := range s.List {
			if f, ok := b.Initializer.(*ast.FunctionLiteral); ok && isEntry(b.Target) {
				return f
			}
		}
	case *ast.ExpressionStatement:
		if a, ok := s.Expression.(*ast.AssignExpression); ok && isEntry(a.Left) {
			f, _ := a.Right.(*ast.FunctionLiteral)
			return f
		}
	}
	return nil
}

func isEntry(target any) bool {
	id, ok := target.(*ast.Identifier)
	return ok && id.Name.String() == entryPoint
}

// marker puts noteLine into returns: return note(7), value. It does not go into
// functions within the function.
type marker struct{ file *file.File }

func (m marker) list(statements []ast.Statement) {
	for _, s := range statements {
		m.statement(s)
	}
}

func (m marker) block(b *ast.BlockStatement) {
	if b != nil {
		m.list(b.List)
	}
}

func (m marker) statement(s ast.Statement) {
	switch s := s.(type) {
	case *ast.ReturnStatement:
		m.mark(s)
	case *ast.BlockStatement:
		m.block(s)
	case *ast.IfStatement:
		m.statement(s.Consequent)
		m.statement(s.Alternate)
	case *ast.ForStatement:
		m.statement(s.Body)
	case *ast.ForInStatement:
		m.statement(s.Body)
	case *ast.ForOfStatement:
		m.statement(s.Body)
	case *ast.WhileStatement:
		m.statement(s.Body)
	case *ast.DoWhileStatement:
		m.statement(s.Body)
	case *ast.LabelledStatement:
		m.statement(s.Statement)
	case *ast.WithStatement:
		m.statement(s.Body)
	case *ast.SwitchStatement:
		for _, c := range s.Body {
			m.list(c.Consequent)
		}
	case *ast.TryStatement:
		m.block(s.Body)
		if s.Catch != nil {
			m.block(s.Catch.Body)
		}
		m.block(s.Finally)
	}
}

func (m marker) mark(s *ast.ReturnStatement) {
	if s.Argument == nil {
		return
	}
	line := m.file.Position(int(s.Return) - m.file.Base()).Line
	s.Argument = &ast.SequenceExpression{Sequence: []ast.Expression{
		&ast.CallExpression{
			Callee:       &ast.Identifier{Name: noteLine, Idx: s.Return},
			ArgumentList: []ast.Expression{&ast.NumberLiteral{Idx: s.Return, Literal: fmt.Sprint(line), Value: int64(line)}},
		},
		s.Argument,
	}}
}
