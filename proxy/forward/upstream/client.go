// Package upstream is an HTTP/1.1 client whose connections are written and read by the caller's own goroutine. The
// library's Transport keeps two goroutines for each connection and hands every request through both, which costs as much as all
// the rest of a proxy; and it repeats requests by itself, which here would charge twice. This one never repeats anything.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Errors of Do and Read. What a caller has to know is whether the provider can have seen the request: see Exchange.Sent.
var (
	// ErrTimeout means that the upstream was silent for too long.
	ErrTimeout = errors.New("upstream timed out")
	// ErrProtocol means that what came is not HTTP/1.1.
	ErrProtocol = errors.New("upstream does not speak HTTP")
)

// Config are the settings of a Client; zero values mean the defaults beside the fields.
type Config struct {
	// DialTimeout bounds connecting and the TLS handshake, 10 s.
	DialTimeout time.Duration
	// IdleTimeout is how long an unused connection is kept, 55 s: below the keep-alive of most servers.
	IdleTimeout time.Duration
	// MaxIdlePerHost is the number of unused connections kept for one address, 512.
	MaxIdlePerHost int
	// TLS replaces the TLS settings, for tests and private CAs; nil: the system's roots.
	TLS *tls.Config
}

// Client keeps connections to upstreams. It is safe for concurrent use.
type Client struct {
	cfg    Config
	dialer net.Dialer
	tls    *tls.Config
	pools  sync.Map // poolKey → *pool
}

// poolKey is what connections can be shared for.
type poolKey struct {
	tls     bool
	address string // host:port
}

// New returns a client.
func New(cfg Config) *Client {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 10 * time.Second
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 55 * time.Second
	}
	if cfg.MaxIdlePerHost == 0 {
		cfg.MaxIdlePerHost = 512
	}
	t := cfg.TLS
	if t == nil {
		t = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t = t.Clone()
	t.NextProtos = []string{"http/1.1"}
	if t.ClientSessionCache == nil {
		t.ClientSessionCache = tls.NewLRUClientSessionCache(256)
	}
	return &Client{cfg: cfg, dialer: net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: 15 * time.Second}, tls: t}
}

// pool holds the unused connections of one address; the one used last is used first.
type pool struct {
	mu   sync.Mutex // guards idle
	idle []*conn
}

func (c *Client) pool(k poolKey) *pool {
	if p, ok := c.pools.Load(k); ok {
		return p.(*pool) //nolint:forcetypeassert,errcheck // the map holds nothing else
	}
	p, _ := c.pools.LoadOrStore(k, new(pool))
	return p.(*pool) //nolint:forcetypeassert,errcheck // the map holds nothing else
}

// get returns a connection that was alive a moment ago, or a new one.
func (c *Client) get(ctx context.Context, k poolKey) (*conn, error) {
	p := c.pool(k)
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return c.dial(ctx, k, p)
		}
		cn := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if time.Since(cn.idleSince) < c.cfg.IdleTimeout && cn.alive() {
			return cn, nil
		}
		cn.close()
	}
}

// put keeps a connection for the next request, or closes it when there are enough.
func (c *Client) put(cn *conn) {
	cn.idleSince = time.Now()
	p := cn.pool
	p.mu.Lock()
	full := len(p.idle) >= c.cfg.MaxIdlePerHost
	if !full {
		p.idle = append(p.idle, cn)
	}
	p.mu.Unlock()
	if full {
		cn.close()
	}
}

// CloseIdle closes unused connections that have been so for longer than the idle timeout; all is every unused one.
func (c *Client) CloseIdle(all bool) {
	c.pools.Range(func(_, v any) bool {
		p := v.(*pool) //nolint:forcetypeassert,errcheck // the map holds nothing else
		p.mu.Lock()
		defer p.mu.Unlock()
		kept := p.idle[:0]
		for _, cn := range p.idle {
			if all || time.Since(cn.idleSince) >= c.cfg.IdleTimeout {
				cn.close()
				continue
			}
			kept = append(kept, cn)
		}
		clear(p.idle[len(kept):])
		p.idle = kept
		return true
	})
}

// dial connects. Nothing of the request has been sent when it fails.
func (c *Client) dial(ctx context.Context, k poolKey, p *pool) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	nc, err := c.dialer.DialContext(ctx, "tcp", k.address)
	if err != nil {
		return nil, fmt.Errorf("dialing %s: %w", k.address, err)
	}
	cn := newConn(nc, p)
	if !k.tls {
		return cn, nil
	}
	cfg := c.tls.Clone()
	if cfg.ServerName == "" {
		if cfg.ServerName, _, err = net.SplitHostPort(k.address); err != nil {
			return nil, errors.Join(fmt.Errorf("dialing %s: %w", k.address, err), nc.Close())
		}
	}
	t := tls.Client(nc, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("dialing %s: %w", k.address, err), nc.Close())
	}
	cn.use(t)
	return cn, nil
}
