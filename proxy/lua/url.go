package lua

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// poolSize is the connections to one server: a Redis core is busy at 64, and more calls wait for one of them.
	poolSize = 64
	// dialTimeout bounds a dial, which goes on behind the call that asked for it; with TLS it holds a handshake too.
	dialTimeout    = 200 * time.Millisecond
	dialTimeoutTLS = time.Second
	// ioTimeout bounds a read or a write where the context has no deadline. Decisions always have one. It is not tens of
	// milliseconds, because the client counts it from a clock that is up to 50 ms late.
	ioTimeout = time.Second
	// bufferSize is each of a connection's two buffers, in bytes: scripts are called by name, and answer little.
	bufferSize = 8 << 10
)

// StoreSchemes are the schemes of a store's URL.
var StoreSchemes = []string{"redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"}

// ParseStoreURL checks the URL of a store: redis://, redis+cluster:// or redis+sentinel://, with an s for TLS, and the
// parameters that go-redis knows. The error shows nothing of the URL: it may hold a password.
func ParseStoreURL(text string) error {
	_, err := parseStoreURL(text)
	return err
}

// options is what a URL says: one of the three is set.
type options struct {
	single   *redis.Options
	cluster  *redis.ClusterOptions
	sentinel *redis.FailoverOptions
}

func parseStoreURL(text string) (options, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return options{}, fmt.Errorf("must begin with one of %s", strings.Join(StoreSchemes, "://, ")+"://")
	}
	plain, kind, _ := strings.Cut(scheme, "+")
	if plain != "redis" && plain != "rediss" {
		kind = "unknown"
	}
	var o options
	var err error
	switch kind {
	case "":
		o.single, err = redis.ParseURL(plain + "://" + rest)
	case "cluster":
		o.cluster, err = redis.ParseClusterURL(plain + "://" + rest)
		if err == nil {
			err = checkCluster(plain + "://" + rest)
		}
	case "sentinel":
		o.sentinel, err = redis.ParseFailoverURL(plain + "://" + rest)
		switch {
		case err != nil:
		case o.sentinel.MasterName == "":
			err = errors.New("redis+sentinel: master_name is missing")
		case o.sentinel.ReplicaOnly || o.sentinel.RouteByLatency || o.sentinel.RouteRandomly:
			err = errors.New("redis+sentinel: only the primary decides; no replica may be asked")
		}
	default:
		return options{}, fmt.Errorf("must begin with one of %s", strings.Join(StoreSchemes, "://, ")+"://")
	}
	var bad *url.Error
	if errors.As(err, &bad) {
		err = bad.Err
	}
	return o, err
}

// checkCluster refuses what the parser of go-redis lets pass: a cluster has only database 0.
func checkCluster(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return err
	}
	if p := strings.Trim(u.Path, "/"); p != "" && p != "0" {
		return errors.New("redis+cluster: a cluster has no database but 0")
	}
	return nil
}

// governed sets what the store depends on, whatever the URL says; what only sizes things is a default.
func (o options) governed(timeout time.Duration) options {
	size := func(n *int) {
		if *n <= 0 {
			*n = poolSize
		}
	}
	dial := func(d *time.Duration, tls bool) {
		switch {
		case *d > 0:
		case tls:
			*d = dialTimeoutTLS
		default:
			*d = dialTimeout
		}
	}
	off := &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	switch {
	case o.single != nil:
		s := o.single
		s.MaxRetries, s.DialerRetries, s.PipelinePoolSize, s.MinIdleConns = -1, 1, -1, 0
		s.ContextTimeoutEnabled, s.DisableIdentity, s.Protocol, s.MaintNotificationsConfig = true, true, 2, off
		s.ReadTimeout, s.WriteTimeout, s.PoolTimeout = ioTimeout, ioTimeout, max(timeout, hardTimeout)
		s.ReadBufferSize, s.WriteBufferSize = bufferSize, bufferSize
		size(&s.PoolSize)
		dial(&s.DialTimeout, s.TLSConfig != nil)
	case o.cluster != nil:
		s := o.cluster
		s.MaxRetries, s.DialerRetries, s.PipelinePoolSize, s.MinIdleConns = -1, 1, -1, 0
		s.ReadOnly, s.RouteByLatency, s.RouteRandomly = false, false, false
		s.ContextTimeoutEnabled, s.DisableIdentity, s.Protocol, s.MaintNotificationsConfig = true, true, 2, off
		s.ReadTimeout, s.WriteTimeout, s.PoolTimeout = ioTimeout, ioTimeout, max(timeout, hardTimeout)
		s.ReadBufferSize, s.WriteBufferSize = bufferSize, bufferSize
		size(&s.PoolSize)
		dial(&s.DialTimeout, s.TLSConfig != nil)
	default:
		s := o.sentinel
		s.MaxRetries, s.DialerRetries, s.PipelinePoolSize, s.MinIdleConns = -1, 1, -1, 0
		s.ContextTimeoutEnabled, s.DisableIdentity, s.Protocol = true, true, 2
		s.ReadTimeout, s.WriteTimeout, s.PoolTimeout = ioTimeout, ioTimeout, max(timeout, hardTimeout)
		s.ReadBufferSize, s.WriteBufferSize = bufferSize, bufferSize
		size(&s.PoolSize)
		dial(&s.DialTimeout, s.TLSConfig != nil)
	}
	return o
}
