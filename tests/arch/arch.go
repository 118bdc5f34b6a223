// Package arch holds the rules of the architecture as functions over the import graph and the
// source, so that each rule can be shown to fail on a small example as well as to hold for the
// repository. They repeat what the linters check where a linter can be silenced beside the code.
package arch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Module is the prefix of all packages of the project.
const Module = "github.com/rateguard/rateguard/"

// Modules of the workspace, and which of them each may import.
var Modules = map[string][]string{
	"schemas":     {},
	"topics":      {"schemas"},
	"proxy":       {"schemas", "topics"},
	"processors":  {"schemas", "topics"},
	"projections": {"schemas", "topics"},
	"deploy":      {"schemas", "topics", "proxy", "processors", "projections"},
	"tests":       {"schemas", "topics", "proxy", "processors", "projections", "deploy"},
}

// Package is what `go list` knows of a package.
type Package struct {
	ImportPath   string
	Dir          string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// Path returns the package's path below the project.
func (p Package) Path() string { return strings.TrimPrefix(p.ImportPath, Module) }

// Root returns the folder of go.work, above the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the working directory: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.work above the working directory")
		}
		dir = up
	}
}

// Load lists the packages of all modules.
func Load(ctx context.Context, root string) ([]Package, error) {
	args := []string{"list", "-json=ImportPath,Dir,Imports,TestImports,XTestImports"}
	for m := range Modules {
		args = append(args, "./"+m+"/...")
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w%s", err, stderr(err))
	}
	var all []Package
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p Package
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading the list of packages: %w", err)
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Package) int { return strings.Compare(a.ImportPath, b.ImportPath) })
	return all, nil
}

func stderr(err error) string {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return ": " + string(e.Stderr)
	}
	return ""
}

// BuildAlone builds a module without the workspace, which hides a require that is missing.
func BuildAlone(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "./...")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s alone: %w\n%s", filepath.Base(dir), err, out)
	}
	return nil
}
