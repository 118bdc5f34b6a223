package postgres_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rateguard/rateguard/projections/postgres"
)

func TestTextKeepsWhatTheStoreTakes(t *testing.T) {
	for _, s := range []string{"", "gpt-4o", "Größe 大", `'; DROP TABLE ledger; --`, "\n\t\x01\x7f", strings.Repeat("x", 400)} {
		if got := postgres.Text(s); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
}

func TestTextHasNoNUL(t *testing.T) {
	if got := postgres.Text("a\x00b\x00"); got != "a\uFFFDb\uFFFD" {
		t.Errorf("got %q", got)
	}
	// A replacement is longer than a NUL: the bound counts what comes out.
	if got := postgres.Text(strings.Repeat("\x00", 300)); len(got) > 400 || strings.ContainsRune(got, 0) {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

// TestLongTextsAreCutAndStayDifferent cuts within characters of every width.
func TestLongTextsAreCutAndStayDifferent(t *testing.T) {
	for _, unit := range []string{"x", "ß", "大", "🙂"} {
		for shift := range 4 {
			long := strings.Repeat("-", shift) + strings.Repeat(unit, 500)
			a, b := postgres.Text(long+"a"), postgres.Text(long+"b")
			if len(a) > 400 || !utf8.ValidString(a) {
				t.Errorf("%s after %d: %d bytes, valid %v", unit, shift, len(a), utf8.ValidString(a))
			}
			if a == b {
				t.Errorf("%s after %d: two texts became one", unit, shift)
			}
			if a != postgres.Text(long+"a") {
				t.Errorf("%s after %d: one text became two", unit, shift)
			}
			if postgres.Text(a) != a {
				t.Errorf("%s after %d: a cut text is cut again", unit, shift)
			}
		}
	}
}
