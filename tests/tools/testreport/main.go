// Command testreport reads the output of `go test -json`, prints one line a package and the
// output of what failed, and exits 1 on a failure, on a package that ran no test although it
// has some, and, where the variable CI is set, on a skipped test: a test that skips itself in
// silence guards nothing.
package main

import (
	"fmt"
	"os"
)

func main() {
	r := newReport(os.Getenv("CI") != "")
	if err := r.read(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if !r.summarize(os.Stdout) {
		os.Exit(1)
	}
}
