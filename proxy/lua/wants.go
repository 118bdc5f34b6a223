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

// Place says where the budgets of a workspace stand in Redis: the epoch, 0 where there are none, and the offset in the topic of costs up
// to which ends are applied, −1 where there are none.
type Place struct {
	Epoch uint64
	At    int64
}

// Places returns where the budgets of workspaces stand.
func (w *Wants) Places(ctx context.Context, workspaces []string) ([]Place, error) {
	ctx, cancel := context.WithTimeout(ctx, producerTimeout)
	defer cancel()
	replies := make([]*redis.SliceCmd, len(workspaces))
	_, err := w.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, ws := range workspaces {
			replies[i] = p.HMGet(ctx, keyspace.State(ws), "epoch", "at")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the epochs of budgets: %w", err)
	}
	out := make([]Place, len(workspaces))
	for i, r := range replies {
		v := struct {
			Epoch uint64 `redis:"epoch"`
			At    *int64 `redis:"at"`
		}{}
		if err := r.Scan(&v); err != nil {
			return nil, fmt.Errorf("reading the epoch of %s: %w", workspaces[i], err)
		}
		out[i] = Place{Epoch: v.Epoch, At: -1}
		if v.At != nil {
			out[i].At = *v.At
		}
	}
	return out, nil
}

// Epochs returns the epochs of the budgets of workspaces, 0 where there are none.
func (w *Wants) Epochs(ctx context.Context, workspaces []string) ([]uint64, error) {
	places, err := w.Places(ctx, workspaces)
	if err != nil {
		return nil, err
	}
	out := make([]uint64, len(places))
	for i, p := range places {
		out[i] = p.Epoch
	}
	return out, nil
}
