package lua

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxShards bounds what is remembered of addresses, which come and go where nodes are pods.
	maxShards = 1024
	// successorPoll is how often the map of slots is looked at while a new primary is awaited.
	successorPoll = 2 * time.Millisecond
)

// cluster is the shards of a Redis Cluster: one an address, because a primary that takes over is another server with
// another clock. The client keeps the map of slots; redirects are ours.
type cluster struct {
	client *redis.ClusterClient
	// slots stands for the map of slots itself: its breaker opens when no node answers.
	slots *shard

	// mu guards all below.
	mu       sync.RWMutex
	byClient map[*redis.Client]*shard
	byAddr   map[string]*shard
	// like is what a node's client is made of. strangers are nodes that we made: they own no slot yet, and so the map does
	// not name them, but a slot that moves to them already sends us there.
	like      *redis.Options
	strangers []*redis.Client
}

func newShard(name string, client *redis.Client) *shard {
	sh := &shard{name: name, client: client, line: line{client: client}}
	client.AddHook(dialHook{sh})
	return sh
}

func newCluster(opt *redis.ClusterOptions) *cluster {
	c := &cluster{
		slots: &shard{name: "slots"}, byClient: map[*redis.Client]*shard{}, byAddr: map[string]*shard{},
	}
	opt.NewClient = func(o *redis.Options) *redis.Client {
		like := *o
		c.mu.Lock()
		defer c.mu.Unlock()
		c.like = &like
		return redis.NewClient(o)
	}
	c.client = redis.NewClusterClient(opt)
	// Not above: the cluster's client writes to a node's client once more before it may be shared.
	c.client.OnNewNode(func(client *redis.Client) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.adopt(client, client.Options().Addr)
	})
	return c
}

// adopt makes a shard of a node's client. c.mu is held.
func (c *cluster) adopt(client *redis.Client, addr string) *shard {
	if len(c.byAddr) >= maxShards {
		// What is still in use is adopted again.
		clear(c.byAddr)
		clear(c.byClient)
	}
	if old := c.byAddr[addr]; old != nil {
		delete(c.byClient, old.client)
	}
	sh := newShard(addr, client)
	c.byClient[client], c.byAddr[addr] = sh, sh
	return sh
}

// owner returns the shard that the map of slots names for the key.
func (c *cluster) owner(ctx context.Context, key string) (*shard, error) {
	client, err := c.client.MasterForKey(ctx, key)
	if err != nil {
		return nil, err
	}
	c.mu.RLock()
	sh := c.byClient[client]
	c.mu.RUnlock()
	if sh == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		sh = c.adopt(client, client.Options().Addr)
	}
	return sh, nil
}

// at returns the shard at the address of a redirect by from; an address without a host is on the same host.
func (c *cluster) at(addr string, from *shard) *shard {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil
	}
	if host == "" {
		host, _, _ = net.SplitHostPort(from.name)
		addr = net.JoinHostPort(host, port)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if sh := c.byAddr[addr]; sh != nil {
		return sh
	}
	o := *c.like
	o.Addr, o.NodeAddress, o.Dialer = addr, addr, nil
	client := redis.NewClient(&o)
	c.strangers = append(c.strangers, client)
	return c.adopt(client, addr)
}

// successor waits until the map names another shard for the key, nil at the deadline.
func (c *cluster) successor(ctx context.Context, key string, than *shard) *shard {
	c.client.ReloadState(ctx)
	tick := time.NewTicker(successorPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if sh, err := c.owner(ctx, key); err == nil && sh != than {
				return sh
			}
		}
	}
}

func (c *cluster) closeStrangers() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, s := range c.strangers {
		errs = append(errs, s.Close())
	}
	c.strangers = nil
	return errors.Join(errs...)
}
