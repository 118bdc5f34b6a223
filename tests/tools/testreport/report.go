package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// event is a line of `go test -json`.
type event struct {
	Action  string
	Package string
	// ImportPath is set instead of Package while a package is built.
	ImportPath string
	Test       string
	Elapsed    float64
	Output     string
	// FailedBuild names what did not compile.
	FailedBuild string
}

// test names one test.
type test struct{ pkg, name string }

// report is what the events amount to.
type report struct {
	failSkips bool
	output    map[test][]string
	// builds is the compiler's output by import path.
	builds         map[string][]string
	failed, skips  []test
	packages, bad  int
	passed, cached int
}

func newReport(failSkips bool) *report {
	return &report{failSkips: failSkips, output: map[test][]string{}, builds: map[string][]string{}}
}

// read takes all events and prints each package's end. Lines that are no event are printed as they are.
func (r *report) read(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if line = bytes.TrimSpace(line); len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				r.bad++ // the go command itself complains
				_, _ = fmt.Fprintf(out, "%s\n", line)
			} else {
				r.add(e, out)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading test events: %w", err)
		}
	}
}

func (r *report) add(e event, out io.Writer) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		r.builds[e.ImportPath] = append(r.builds[e.ImportPath], e.Output)
	case "output":
		r.output[t] = append(r.output[t], e.Output)
		if e.Test == "" && strings.Contains(e.Output, "\t(cached)") {
			r.cached++
		}
	case "pass", "fail", "skip":
		r.end(e, t, out)
	}
}

func (r *report) end(e event, t test, out io.Writer) {
	if e.Test == "" {
		r.endPackage(e, out)
		return
	}
	switch e.Action {
	case "pass":
		r.passed++
		delete(r.output, t)
	case "skip":
		r.skips = append(r.skips, t)
	case "fail":
		r.failed = append(r.failed, t)
	}
}

func (r *report) endPackage(e event, out io.Writer) {
	if e.Action == "skip" {
		return // no test files
	}
	r.packages++
	took := time.Duration(e.Elapsed * float64(time.Second)).Round(10 * time.Millisecond)
	name := strings.TrimPrefix(e.Package, "github.com/rateguard/rateguard/")
	_, _ = fmt.Fprintf(out, "%-4s  %8s  %s\n", e.Action, took, name)
	if e.Action != "fail" {
		return
	}
	r.bad++
	for _, line := range r.builds[e.FailedBuild] {
		_, _ = fmt.Fprint(out, "      ", line)
	}
	// The tests that failed first, then what the package itself printed: a panic, a race outside a test.
	for _, t := range append(slices.Clone(r.failed), test{e.Package, ""}) {
		if t.pkg != e.Package {
			continue
		}
		for _, line := range r.output[t] {
			_, _ = fmt.Fprint(out, "      ", line)
		}
	}
	// A test that was running when the process died has no end.
	for t, lines := range r.output {
		if t.pkg != e.Package || t.name == "" || slices.Contains(r.failed, t) || slices.Contains(r.skips, t) {
			continue
		}
		_, _ = fmt.Fprintf(out, "      unfinished: %s\n", t.name)
		for _, line := range lines {
			_, _ = fmt.Fprint(out, "      ", line)
		}
	}
}

// summarize prints the end and reports whether all is well.
func (r *report) summarize(out io.Writer) bool {
	for _, t := range r.skips {
		_, _ = fmt.Fprintf(out, "skipped: %s %s\n", t.pkg, t.name)
		for _, line := range r.output[t] {
			_, _ = fmt.Fprint(out, "      ", line)
		}
	}
	_, _ = fmt.Fprintf(out, "%d tests passed, %d failed, %d skipped in %d packages (%d cached)\n", r.passed, len(r.failed), len(r.skips), r.packages, r.cached)
	switch {
	case r.packages == 0:
		_, _ = fmt.Fprintln(out, "no package was tested")
		return false
	case r.failSkips && len(r.skips) > 0:
		_, _ = fmt.Fprintln(out, "a skipped test is a failure in CI")
		return false
	}
	return r.bad == 0 && len(r.failed) == 0
}
