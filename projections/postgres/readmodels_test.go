package postgres_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rateguard/rateguard/projections/postgres"
)

// A statement of a read model whose result cannot be looked for would be run, and lock its table, at every start.
func TestReadModelsAreMadeByStatementsThatCanBeSkipped(t *testing.T) {
	for _, test := range []struct{ name, number, sql, refused string }{
		{"a table", "0001", "-- A; comment.\nCREATE TABLE IF NOT EXISTS a (\n    -- x; y\n    b text\n);\n", ""},
		{"an index", "0001", "CREATE UNIQUE INDEX IF NOT EXISTS a_by_b ON a (b);", ""},
		{"an index beside writers", "0001", "CREATE INDEX CONCURRENTLY IF NOT EXISTS a_by_b ON a (b) WHERE b > 1;", ""},
		{"a column", "0001", "ALTER TABLE a ADD COLUMN IF NOT EXISTS c boolean NOT NULL DEFAULT false;", ""},
		{"a table that may not be there yet", "0001", "CREATE TABLE a (b text);", "CREATE TABLE a (b text)"},
		{"two columns at once", "0001", "ALTER TABLE a ADD COLUMN IF NOT EXISTS c text, ADD COLUMN d text;", "ALTER TABLE a"},
		{"rows", "0009", "CREATE TABLE IF NOT EXISTS a (b text); INSERT INTO a VALUES ('x');", "INSERT INTO a"},
		{"rows of what is no read model", "0010", "CREATE TABLE a (b text); INSERT INTO a VALUES ('x');", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := postgres.Migrations(fstest.MapFS{"migrations/" + test.number + "_create_a.sql": {Data: []byte(test.sql)}})
			switch {
			case test.refused == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)):
				t.Errorf("got %v, want a refusal of %q", err, test.refused)
			}
		})
	}
}
