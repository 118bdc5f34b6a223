package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// File is a file of the repository; Path is below its root, with slashes.
type File struct {
	Path, Text string
}

func (f File) isGo() bool   { return strings.HasSuffix(f.Path, ".go") }
func (f File) isTest() bool { return strings.HasSuffix(f.Path, "_test.go") }
func (f File) generated() bool {
	return strings.Contains(f.Text[:min(len(f.Text), 400)], "DO NOT EDIT")
}

// MaxLines is where a hand-written file is split.
const MaxLines = 500

// CheckLength returns the hand-written Go files that are too long.
func CheckLength(files []File) []string {
	var bad []string
	for _, f := range files {
		if n := strings.Count(f.Text, "\n"); f.isGo() && !f.generated() && n > MaxLines {
			bad = append(bad, fmt.Sprintf("%s has %d lines, at most %d", f.Path, n, MaxLines))
		}
	}
	return bad
}

// The names of topics and of files that only developers' machines have.
var (
	topicName = regexp.MustCompile(`\brateguard\.[a-z][a-z-]*\.v[0-9]+\b`)
	statement = regexp.MustCompile(`(?s)^\s*(SELECT\s+\S|INSERT\s+INTO\s|UPDATE\s+\S+\s+SET\s|DELETE\s+FROM\s|(CREATE|DROP|ALTER)\s+(TABLE|SCHEMA|INDEX|VIEW|MATERIALIZED)\b|WITH\s+\w+\s+AS\s*\()`)
	outside   = []string{".." + "/shared", "/work" + "/", "/.lib" + "rary"}
	hosts     = []string{
		"registry." + "npmjs", "registry." + "yarnpkg", "repo." + "maven", "repo1." + "maven", "proxy." + "golang", "sum." + "golang",
		"pypi." + "org", "python" + "hosted.org", "index." + "docker.io", "registry-1." + "docker",
	}
)

// CheckOutside returns the files that name a place outside of the repository or a registry's
// host: which registry is used is the machine's configuration.
func CheckOutside(files []File) []string {
	var bad []string
	for _, f := range files {
		for _, s := range slices.Concat(outside, hosts) {
			if strings.Contains(f.Text, s) {
				bad = append(bad, fmt.Sprintf("%s contains %q", f.Path, s))
			}
		}
	}
	return bad
}

// CheckLiterals returns the string literals that belong elsewhere: topic names into
// topics/topics.go, SQL below projections (and the engines and tests that speak it).
func CheckLiterals(files []File) []string {
	return each(files, func(f File, report func(ast.Node, string)) func(ast.Node) bool {
		topics := f.Path != "topics/topics.go"
		sql := !f.isTest() && !below(f.Path, "projections") && !below(f.Path, "deploy/standalone") && !below(f.Path, "tests")
		return func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			s, err := strconv.Unquote(lit.Value)
			if err != nil {
				return true
			}
			if topics && topicName.MatchString(s) {
				report(n, "names a topic: use the table in topics/topics.go")
			}
			if sql && statement.MatchString(s) {
				report(n, "holds SQL: it belongs below projections")
			}
			return true
		}
	})
}

// impure are the imports that a fold cannot have: the same log must give the same bytes.
var impure = []string{"net", "math/rand", "crypto/rand", "os", "io/fs", "log", "sync", "context", "github.com/twmb/", "github.com/jackc/", "github.com/ClickHouse/"}

// clock are the functions of package time that read it.
var clock = []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}

// minting are the functions of package uuid that make ids up; those that parse are pure.
var minting = []string{"New", "NewString", "NewUUID", "NewRandom", "NewV6", "NewV7", "NewRandomFromReader"}

// fold reports whether the file must be pure: the packages of prices, money and the fold of spend, and every file
// that declares Fold or Project.
func fold(f File, tree *ast.File) bool {
	if f.isTest() {
		return false
	}
	if dir := path.Dir(f.Path); dir == "schemas/price" || dir == "schemas/money" || dir == "schemas/spend" || dir == "schemas/fold" {
		return true
	}
	if !below(f.Path, "processors") && !below(f.Path, "projections") {
		return false
	}
	return slices.ContainsFunc(tree.Decls, func(d ast.Decl) bool {
		fn, ok := d.(*ast.FuncDecl)
		return ok && fn.Recv == nil && (fn.Name.Name == "Fold" || fn.Name.Name == "Project")
	})
}

// Folds returns the files that CheckPurity looks at, so that a renamed function does not make
// the rule check nothing.
func Folds(files []File) []string {
	var found []string
	for _, f := range files {
		if !f.isGo() || f.generated() {
			continue
		}
		if tree, err := parser.ParseFile(token.NewFileSet(), f.Path, f.Text, parser.SkipObjectResolution); err == nil && fold(f, tree) {
			found = append(found, f.Path)
		}
	}
	return found
}

// CheckPurity returns what folds, projections and prices import or call that reads a clock,
// the network, randomness or the machine. The price package may use sync for its cache.
func CheckPurity(files []File) []string {
	return each(files, func(f File, report func(ast.Node, string)) func(ast.Node) bool {
		var pure bool
		return func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.File:
				pure = fold(f, n)
				return pure
			case *ast.ImportSpec:
				name, err := strconv.Unquote(n.Path.Value)
				if err != nil || name == "sync" && below(f.Path, "schemas/price") {
					return true
				}
				if slices.ContainsFunc(impure, func(i string) bool { return name == i || strings.HasPrefix(name, strings.TrimSuffix(i, "/")+"/") }) {
					report(n, "is pure and imports "+name)
				}
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if ok && (x.Name == "time" && slices.Contains(clock, n.Sel.Name) || x.Name == "uuid" && slices.Contains(minting, n.Sel.Name)) {
					report(n, "is pure and calls "+x.Name+"."+n.Sel.Name)
				}
			}
			return true
		}
	})
}

// each walks the syntax of all hand-written Go files.
func each(files []File, visitor func(File, func(ast.Node, string)) func(ast.Node) bool) []string {
	var bad []string
	for _, f := range files {
		if !f.isGo() || f.generated() {
			continue
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, f.Path, f.Text, parser.SkipObjectResolution)
		if err != nil {
			bad = append(bad, err.Error())
			continue
		}
		ast.Inspect(tree, visitor(f, func(n ast.Node, what string) {
			bad = append(bad, fmt.Sprintf("%s:%d %s", f.Path, set.Position(n.Pos()).Line, what))
		}))
	}
	return bad
}

// designSections must stand in each module's DESIGN.md.
var designSections = []string{"File map", "Non-obvious", "Decisions"}

// CheckDesigns returns what the modules' DESIGN.md lack.
func CheckDesigns(files []File) []string {
	texts := map[string]string{}
	for _, f := range files {
		texts[f.Path] = f.Text
	}
	var bad []string
	for m := range Modules {
		text, ok := texts[m+"/DESIGN.md"]
		if !ok {
			bad = append(bad, m+" has no DESIGN.md")
			continue
		}
		for _, s := range designSections {
			if !strings.Contains(text, "## "+s) {
				bad = append(bad, fmt.Sprintf("%s/DESIGN.md has no section %q", m, s))
			}
		}
	}
	slices.Sort(bad)
	return bad
}

// CheckGoMods returns what is wrong with how modules require each other: siblings at v0.0.0,
// replaced by their folder, and only those that may be imported.
func CheckGoMods(files []File) []string {
	var bad []string
	for _, f := range files {
		m, name := path.Split(f.Path)
		m = strings.TrimSuffix(m, "/")
		if name != "go.mod" || Modules[m] == nil {
			continue
		}
		for line := range strings.Lines(f.Text) {
			line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "require "))
			rest, ours := strings.CutPrefix(line, Module)
			sibling, version, _ := strings.Cut(rest, " ")
			switch {
			case !ours || strings.HasPrefix(version, "=>"):
				continue
			case !slices.Contains(Modules[m], sibling):
				bad = append(bad, fmt.Sprintf("%s requires %s", f.Path, sibling))
			case strings.Fields(version)[0] != "v0.0.0":
				bad = append(bad, fmt.Sprintf("%s requires %s at %s, want v0.0.0", f.Path, sibling, version))
			}
			if !strings.Contains(f.Text, Module+sibling+" => ../"+sibling) {
				bad = append(bad, fmt.Sprintf("%s does not replace %s by ../%s", f.Path, sibling, sibling))
			}
		}
	}
	return bad
}
