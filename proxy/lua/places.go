package lua

import (
	"context"
	_ "embed"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/rateguard/rateguard/schemas/keyspace"
)

//go:embed place.lua
var placeSource string

// placesAtOnce is how many workspaces are asked for at a time.
const placesAtOnce = 16

// Place says where the budgets of a workspace stand in Redis: the epoch by which may be granted, 0 where there is none or where it was installed on
// another server than the one that answers; and the offset in the topic of costs up to which ends are applied, −1 where there are none.
type Place struct {
	Epoch uint64
	At    int64
}

// Places returns where the budgets of workspaces stand.
func (b *Balances) Places(ctx context.Context, workspaces []string) ([]Place, error) {
	out := make([]Place, len(workspaces))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(placesAtOnce)
	for i, ws := range workspaces {
		group.Go(func() error {
			reply, err := b.store.Eval(ctx, b.place, []string{keyspace.State(ws)}, func(Times) []any { return nil })
			if err != nil {
				return fmt.Errorf("reading where the budgets of %s stand: %w", ws, err)
			}
			if len(reply.Values) != 4 {
				return fmt.Errorf("reading where the budgets of %s stand: an answer of %d values", ws, len(reply.Values))
			}
			out[i] = Place{Epoch: uint64(number(reply.Values[2])), At: number(reply.Values[3])} //nolint:gosec // an epoch
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err //nolint:wrapcheck // wrapped above
	}
	return out, nil
}
