package arch_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rateguard/rateguard/tests/arch"
)

// packages of the repository.
func packages(t *testing.T) []arch.Package {
	t.Helper()
	all, err := arch.Load(t.Context(), root(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d packages found", len(all))
	}
	return all
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := arch.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// files of the repository: all that git has or would take.
func files(t *testing.T) []arch.File {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing the files of the repository: %v", err)
	}
	var all []arch.File
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		info, err := os.Lstat(filepath.Join(cmd.Dir, name))
		if os.IsNotExist(err) || err == nil && !info.Mode().IsRegular() {
			continue // deleted, or a link
		}
		text, err := os.ReadFile(filepath.Join(cmd.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, arch.File{Path: name, Text: string(text)})
	}
	return all
}

func none(t *testing.T, bad []string) {
	t.Helper()
	for _, b := range bad {
		t.Error(b)
	}
}

func TestModulesImportOnlyWhatIsBelowThem(t *testing.T) { none(t, arch.CheckModules(packages(t))) }

func TestClientsStayInTheirPlaces(t *testing.T) {
	none(t, arch.CheckClients(packages(t), arch.Clients))
}

func TestLeavesDoNotImportSiblings(t *testing.T) {
	none(t, arch.CheckSiblings(packages(t), arch.Siblings))
}

func TestFilesAreNotTooLong(t *testing.T) { none(t, arch.CheckLength(files(t))) }

func TestNothingOutsideIsNamed(t *testing.T) { none(t, arch.CheckOutside(files(t))) }

func TestTopicNamesAndSQLStandInTheirPlaces(t *testing.T) { none(t, arch.CheckLiterals(files(t))) }

func TestFoldsArePure(t *testing.T) {
	all := files(t)
	none(t, arch.CheckPurity(all))
	folds := arch.Folds(all)
	for _, want := range []string{
		"schemas/spend/fold.go", "projections/balances/project.go", "projections/ledger/project.go",
		"projections/requests/project.go", "schemas/money/money.go", "schemas/price/price.go",
	} {
		if !slices.Contains(folds, want) {
			t.Errorf("%s is not among the files that must be pure: %v", want, folds)
		}
	}
}

func TestEveryModuleSaysWhatItPromises(t *testing.T) { none(t, arch.CheckDesigns(files(t))) }

func TestModulesReplaceTheirSiblings(t *testing.T) { none(t, arch.CheckGoMods(files(t))) }

func TestModulesBuildAlone(t *testing.T) {
	for m := range arch.Modules {
		t.Run(m, func(t *testing.T) {
			if err := arch.BuildAlone(t.Context(), filepath.Join(root(t), m)); err != nil {
				t.Error(err)
			}
		})
	}
}
