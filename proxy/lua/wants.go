package lua

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/schemas/keyspace"
)

// wantTTL is how long it is remembered that budgets are wanted: who wants them asks again.
const wantTTL = 10 * time.Second

// Wants are the workspaces whose budgets somebody waits for.
type Wants struct{ rdb redis.UniversalClient }

// NewWants returns them on that client.
func NewWants(rdb redis.UniversalClient) *Wants { return &Wants{rdb} }

// Want notes that the budgets of the workspaces are to be read from the log.
func (w *Wants) Want(ctx context.Context, workspaces []string) error {
	ctx, cancel := context.WithTimeout(ctx, producerTimeout)
	defer cancel()
	members := make([]any, len(workspaces))
	for i, ws := range workspaces {
		members[i] = ws
	}
	_, err := w.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.SAdd(ctx, keyspace.Wanted, members...)
		p.PExpire(ctx, keyspace.Wanted, wantTTL)
		return nil
	})
	if err != nil {
		return fmt.Errorf("asking for budgets: %w", err)
	}
	return nil
}

// Wanted takes and returns some of the workspaces that are wanted.
func (w *Wants) Wanted(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, producerTimeout)
	defer cancel()
	out, err := w.rdb.SPopN(ctx, keyspace.Wanted, 1000).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("reading whose budgets are wanted: %w", err)
	}
	return out, nil
}
