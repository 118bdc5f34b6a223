package lua

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/schemas/keyspace"
)

// overlap is how far back revocations are read again, in µs: control may write them a little out of order.
const overlap = 60_000_000

// Policy returns the published policy of a workspace as control wrote it, empty where there is none.
func (s *Store) Policy(ctx context.Context, workspace string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	document, err := s.client.HGet(ctx, keyspace.Policy(workspace), keyspace.PolicyDocument).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the policy of %s: %w", workspace, err)
	}
	return document, nil
}

// Revoked returns the keys that were revoked since the instant (µs of control's clock; 0: all), and the latest of those instants.
func (s *Store) Revoked(ctx context.Context, since int64) (keys []string, latest int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	from := "-inf"
	if since > overlap {
		from = strconv.FormatInt(since-overlap, 10)
	}
	found, err := s.client.ZRangeByScoreWithScores(ctx, keyspace.RevokedKeys, &redis.ZRangeBy{Min: from, Max: "+inf"}).Result()
	if err != nil {
		return nil, 0, fmt.Errorf("reading the revoked keys: %w", err)
	}
	for _, z := range found {
		if id, ok := z.Member.(string); ok {
			keys = append(keys, id)
			latest = max(latest, int64(math.Min(z.Score, 1<<53)))
		}
	}
	return keys, latest, nil
}
