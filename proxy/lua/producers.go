// Package lua holds the Redis scripts of the proxy and the only calls to them. Each script's header
// says its keys, arguments, answers and the invariant it keeps.
package lua

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// producerTTL is how long a producer's hash is kept after its last change: the retention of the costs topic.
const producerTTL = 400 * 24 * time.Hour

// producerTimeout bounds each call here: the store's client has none for a whole call. It holds a script's call by
// name and the one by source.
const producerTimeout = 3 * time.Second

const (
	producerPrefix = "rg:{producers}:"
	livingKey      = "rg:{producers}"
)

// Office is what one proxy at a time should do for all.
type Office string

// The offices: who closes producers that are gone, and who keeps the budgets in Redis at what the log shows.
const (
	Reaper Office = "reaper"
	Keeper Office = "keeper"
)

//go:embed heartbeat.lua
var heartbeatSource string

//go:embed fence.lua
var fenceSource string

//go:embed elect.lua
var electSource string

// Producers are the scripts about the life of proxy processes. All of them may be repeated safely.
type Producers struct {
	rdb                     redis.UniversalClient
	heartbeat, fence, elect *redis.Script
}

// NewProducers returns the scripts on that client.
func NewProducers(rdb redis.UniversalClient) *Producers {
	return &Producers{
		rdb:       rdb,
		heartbeat: redis.NewScript(heartbeatSource),
		fence:     redis.NewScript(fenceSource),
		elect:     redis.NewScript(electSource),
	}
}

// Heartbeat says that the producer lives, and returns whether it is fenced instead and how many producers have said so within the time.
func (p *Producers) Heartbeat(ctx context.Context, id string, within time.Duration) (fenced bool, living int, err error) {
	ctx, cancel := context.WithTimeout(ctx, producerTimeout)
	defer cancel()
	keys := []string{producerPrefix + id, livingKey}
	n, err := p.heartbeat.Run(ctx, p.rdb, keys, producerTTL.Milliseconds(), id, within.Microseconds()).Int()
	if err != nil {
		return false, 0, fmt.Errorf("sending heartbeat: %w", err)
	}
	return n == 0, n, nil
}

// Fence retires the producer id on behalf of by.
func (p *Producers) Fence(ctx context.Context, id, by string) error {
	ctx, cancel := context.WithTimeout(ctx, producerTimeout)
	defer cancel()
	if err := p.fence.Run(ctx, p.rdb, []string{producerPrefix + id}, producerTTL.Milliseconds(), by).Err(); err != nil {
		return fmt.Errorf("fencing producer %s: %w", id, err)
	}
	return nil
}

// Seen returns what the producer's last heartbeat wrote; empty when Redis has none. The value is to be
// compared with an earlier one, not with a clock.
func (p *Producers) Seen(ctx context.Context, id string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, producerTimeout)
	defer cancel()
	v, err := p.rdb.HGet(ctx, producerPrefix+id, "seen").Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("reading heartbeat of %s: %w", id, err)
	}
	return v, nil
}

// Elect takes or renews the lease of an office for the producer and returns whether it holds it.
func (p *Producers) Elect(ctx context.Context, office Office, id string, lease time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, producerTimeout)
	defer cancel()
	n, err := p.elect.Run(ctx, p.rdb, []string{producerPrefix + string(office)}, id, lease.Milliseconds()).Int()
	if err != nil {
		return false, fmt.Errorf("electing %s: %w", office, err)
	}
	return n == 1, nil
}
