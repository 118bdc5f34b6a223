package control

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/schemas/money"
)

// repriceKey is what a reprice tells apart.
type repriceKey struct{ workspace, provider, model string }

// repriceCount is what was found of one key. Amounts are nano-USD; no price counts as 0.
type repriceCount struct {
	// requests is all reservations that have ended; changed are those whose cost differs, kept those whose cost does not come from a usage.
	requests, changed, kept int64
	before, after           money.Nano
}

// repriceSums counts what a reprice finds.
type repriceSums map[repriceKey]*repriceCount

// add counts a reservation. change is its new cost, nil where it is kept.
func (s repriceSums) add(r *ledgerRow, to *recomputed) error {
	key := repriceKey{r.workspace, r.provider, r.model}
	c := s[key]
	if c == nil {
		c = &repriceCount{}
		s[key] = c
	}
	before := money.Nano(0)
	if r.costNano != nil {
		before = money.Nano(*r.costNano)
	}
	after := before
	c.requests++
	switch {
	case to == nil:
		c.kept++
	case r.differs(*to):
		c.changed++
		after = money.Nano(to.nano)
	}
	var err error
	if c.before, err = money.Add(c.before, before); err != nil {
		return err
	}
	c.after, err = money.Add(c.after, after)
	return err
}

// usd is an amount in decimal, without trailing zeros.
type usd = money.Nano

// repriceRow is a line of the difference, as the API shows it.
type repriceRow struct {
	Workspace string `json:"workspace"`
	Provider  string `json:"provider"`
	Model     string `json:"model"`
	repriceTotals
}

// repriceTotals is the numbers of a line, and of all lines together.
type repriceTotals struct {
	Requests   int64 `json:"requests"`
	Changed    int64 `json:"changed"`
	Kept       int64 `json:"kept"`
	Cost       usd   `json:"cost_usd"`
	NewCost    usd   `json:"new_cost_usd"`
	Difference usd   `json:"difference_usd"`
}

func (t *repriceTotals) add(c *repriceCount) error {
	t.Requests, t.Changed, t.Kept = t.Requests+c.requests, t.Changed+c.changed, t.Kept+c.kept
	var err error
	if t.Cost, err = money.Add(t.Cost, c.before); err != nil {
		return err
	}
	if t.NewCost, err = money.Add(t.NewCost, c.after); err != nil {
		return err
	}
	t.Difference, err = money.Sub(t.NewCost, t.Cost)
	return err
}

// rows returns the lines by workspace, provider and model, and their total.
func (s repriceSums) rows() (rows []repriceRow, total repriceTotals, err error) {
	keys := slices.SortedFunc(maps.Keys(s), func(a, b repriceKey) int {
		return cmp.Or(cmp.Compare(a.workspace, b.workspace), cmp.Compare(a.provider, b.provider), cmp.Compare(a.model, b.model))
	})
	rows = make([]repriceRow, len(keys))
	for i, key := range keys {
		rows[i] = repriceRow{Workspace: key.workspace, Provider: key.provider, Model: key.model}
		if err := rows[i].add(s[key]); err != nil {
			return nil, total, err
		}
		if err := total.add(s[key]); err != nil {
			return nil, total, err
		}
	}
	return rows, total, nil
}

// changed returns how many costs of each workspace differ.
func (s repriceSums) changed() map[string]int64 {
	n := map[string]int64{}
	for key, c := range s {
		n[key.workspace] += c.changed
	}
	return n
}

// readRepriceSums returns what a run has found so far.
func readRepriceSums(ctx context.Context, q querier, id string) (repriceSums, error) {
	rows, err := q.Query(ctx, "SELECT workspace, provider, model, requests, changed, kept, before_nano, after_nano FROM control.reprice_sums WHERE reprice_id = $1", id)
	if err != nil {
		return nil, fmt.Errorf("reading the sums of a reprice: %w", err)
	}
	s := repriceSums{}
	var key repriceKey
	var c repriceCount
	_, err = pgx.ForEachRow(rows, []any{&key.workspace, &key.provider, &key.model, &c.requests, &c.changed, &c.kept, (*int64)(&c.before), (*int64)(&c.after)}, func() error {
		found := c
		s[key] = &found
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the sums of a reprice: %w", err)
	}
	return s, nil
}

// addRepriceSums adds what a step of a run has found.
func addRepriceSums(ctx context.Context, tx pgx.Tx, id string, s repriceSums) error {
	const upsert = `
INSERT INTO control.reprice_sums AS r (reprice_id, workspace, provider, model, requests, changed, kept, before_nano, after_nano)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (reprice_id, workspace, provider, model) DO UPDATE SET requests = r.requests + excluded.requests, changed = r.changed + excluded.changed,
       kept = r.kept + excluded.kept, before_nano = r.before_nano + excluded.before_nano, after_nano = r.after_nano + excluded.after_nano`
	batch := &pgx.Batch{}
	for key, c := range s {
		batch.Queue(upsert, id, key.workspace, key.provider, key.model, c.requests, c.changed, c.kept, int64(c.before), int64(c.after))
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("adding to the sums of a reprice: %w", err)
	}
	return nil
}
