package projections_test

import (
	"context"
	"fmt"
	"slices"
)

func (r *rig) execClickHouse(sql string) {
	r.t.Helper()
	if err := r.ch.Exec(r.t.Context(), sql); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

// newGenerations returns a condition: each of the projections has another generation than before.
func (r *rig) newGenerations(before map[string]string, projections []string) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, name := range projections {
			var g string
			if err := r.pg.QueryRow(ctx, "SELECT generation FROM projection_generations WHERE projection = $1", name).Scan(&g); err != nil {
				return fmt.Errorf("reading the generation of %s: %w", name, err)
			}
			if g == before[name] {
				return fmt.Errorf("%s is still at generation %s", name, g)
			}
		}
		return nil
	}
}

func contains(list []string, s string) bool { return slices.Contains(list, s) }
