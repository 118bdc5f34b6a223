package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestVerdict(t *testing.T) {
	const pass = `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n" + `{"Action":"pass","Package":"p","Elapsed":0.5}` + "\n"
	for _, tc := range []struct {
		name, events string
		ci, want     bool
		says         string
	}{
		{"all pass", pass, true, true, "1 tests passed"},
		{"nothing ran", `{"Action":"skip","Package":"p"}`, false, false, "no package was tested"},
		{"a test fails", `{"Action":"output","Package":"p","Test":"TestB","Output":"got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"fail","Package":"p"}`, false, false, "got 1, want 2"},
		{"the process dies", `{"Action":"output","Package":"p","Test":"TestC","Output":"=== RUN\n"}
{"Action":"output","Package":"p","Output":"panic: out of luck\n"}
{"Action":"fail","Package":"p"}`, false, false, "unfinished: TestC"},
		{"a build fails", `{"ImportPath":"p [p.test]","Action":"build-output","Output":"undefined: x\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`, false, false, "undefined: x"},
		{"a skip at home", pass + `{"Action":"skip","Package":"p","Test":"TestD"}`, false, true, "skipped: p TestD"},
		{"a skip in CI", pass + `{"Action":"skip","Package":"p","Test":"TestD"}`, true, false, "a failure in CI"},
		{"the go command fails", pass + "go: no such module\n", false, false, "no such module"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newReport(tc.ci)
			var out bytes.Buffer
			if err := r.read(strings.NewReader(tc.events), &out); err != nil {
				t.Fatal(err)
			}
			if got := r.summarize(&out); got != tc.want {
				t.Errorf("verdict is %t, want %t", got, tc.want)
			}
			if !strings.Contains(out.String(), tc.says) {
				t.Errorf("got %q, want %q in it", out.String(), tc.says)
			}
		})
	}
}
