package proxy

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/secret"
	"github.com/rateguard/rateguard/topics/broker"
)

// Config are the settings of the proxy role. A zero field means the default named beside it.
type Config struct {
	// Addr is where the data plane listens, ":8080". Listener, when set, wins; the server closes it.
	Addr     string
	Listener net.Listener
	// OpsAddr is where the command serves health and metrics, "127.0.0.1:9090".
	OpsAddr string
	// DataDir holds the spool and the configuration snapshot, "./data".
	DataDir string
	// RedisURL is where limits and budgets live; required. RedisTimeout is how long one decision there may take, 50 ms; under a hard budget it is 500 ms at least.
	RedisURL     string
	RedisTimeout time.Duration
	// SecretKey opens upstream credentials: 32 bytes in hex or base64; required.
	SecretKey string
	// MaxBody is the largest request body in bytes, 32 MiB.
	MaxBody int64
	// MaxResponse is the largest body of an answer in bytes as the upstream sends it, 1 GiB. A longer one is cut, and charged
	// as one that the upstream cut.
	MaxResponse int64
	// Drain is how long an upstream may go on after its client has left, 5 s.
	Drain time.Duration
	// ShutdownTimeout is how long SIGTERM waits for requests in flight, 10 min. FlushTimeout is how long it then waits for
	// the spool to be shipped, 15 s: what is left is on disk, and the next start ships it.
	ShutdownTimeout time.Duration
	FlushTimeout    time.Duration
	// IsolatedAfter is how long neither Redis nor Kafka must answer until the proxy says so, 10 s.
	IsolatedAfter time.Duration
	// ClientIPHeader and CountryHeader name headers that a trusted load balancer sets; empty: none.
	ClientIPHeader string
	CountryHeader  string
	Kafka          broker.Config
	Spool          spool.Config
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return Config{}.withDefaults() }

func (c Config) withDefaults() Config {
	text := func(v *string, d string) {
		if *v == "" {
			*v = d
		}
	}
	text(&c.Addr, ":8080")
	text(&c.OpsAddr, "127.0.0.1:9090")
	text(&c.DataDir, "./data")
	if c.MaxBody == 0 {
		c.MaxBody = 32 << 20
	}
	if c.MaxResponse == 0 {
		c.MaxResponse = 1 << 30
	}
	if c.RedisTimeout == 0 {
		c.RedisTimeout = lua.DefaultTimeout
	}
	if c.Drain == 0 {
		c.Drain = 5 * time.Second
	}
	if c.ShutdownTimeout == 0 {
		c.ShutdownTimeout = 10 * time.Minute
	}
	if c.FlushTimeout == 0 {
		c.FlushTimeout = 15 * time.Second
	}
	if c.IsolatedAfter == 0 {
		c.IsolatedAfter = 10 * time.Second
	}
	return c
}

// Register adds the settings to a flag set.
func (c *Config) Register(fs *flag.FlagSet) {
	*c = c.withDefaults()
	fs.StringVar(&c.Addr, "proxy-addr", c.Addr, "address of the data plane")
	fs.StringVar(&c.OpsAddr, "ops-addr", c.OpsAddr, "address of /healthz, /readyz and /metrics")
	fs.StringVar(&c.DataDir, "data-dir", c.DataDir, "folder of the spool and of snapshots")
	fs.StringVar(&c.RedisURL, "redis-url", c.RedisURL, "Redis of limits and budgets: redis://…, redis+cluster://…?addr=…, redis+sentinel://…?master_name=…; rediss for TLS")
	fs.DurationVar(&c.RedisTimeout, "redis-timeout", c.RedisTimeout, "how long one decision in Redis may take, under a hard budget 500 ms at least; no less than five round trips")
	fs.StringVar(&c.SecretKey, "secret-key", c.SecretKey, "key of upstream credentials: 32 bytes in hex or base64")
	fs.Int64Var(&c.MaxBody, "max-body", c.MaxBody, "largest request body in bytes")
	fs.Int64Var(&c.MaxResponse, "max-response", c.MaxResponse, "largest body of an answer in bytes; a longer one is cut")
	fs.DurationVar(&c.Drain, "drain", c.Drain, "how long an upstream may go on after its client has left")
	fs.DurationVar(&c.ShutdownTimeout, "shutdown-timeout", c.ShutdownTimeout, "how long a shutdown waits for requests in flight")
	fs.DurationVar(&c.FlushTimeout, "flush-timeout", c.FlushTimeout, "how long a shutdown then waits for the spool to be shipped; the next start ships the rest")
	fs.DurationVar(&c.IsolatedAfter, "isolated-after", c.IsolatedAfter, "how long neither Redis nor Kafka must answer until the proxy says so")
	fs.StringVar(&c.ClientIPHeader, "client-ip-header", c.ClientIPHeader, "header with the client's address, set by a trusted load balancer; empty: the connection's address")
	fs.StringVar(&c.CountryHeader, "country-header", c.CountryHeader, "header with the client's country, set by a trusted load balancer; empty: none")
	c.Kafka.Register(fs)
	c.Spool.Register(fs)
}

// Validate returns every problem of the settings, joined; each names its flag.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if c.Listener == nil {
		if _, _, err := net.SplitHostPort(c.Addr); err != nil {
			errs = append(errs, fmt.Errorf("proxy-addr: %w", err))
		}
	}
	if _, _, err := net.SplitHostPort(c.OpsAddr); err != nil {
		errs = append(errs, fmt.Errorf("ops-addr: %w", err))
	}
	if c.SecretKey == "" {
		errs = append(errs, errors.New("secret-key: required"))
	} else if _, err := secret.ParseKey(c.SecretKey); err != nil {
		errs = append(errs, fmt.Errorf("secret-key: %w", err))
	}
	if c.RedisURL == "" {
		errs = append(errs, errors.New("redis-url: required"))
	} else if err := lua.ParseStoreURL(c.RedisURL); err != nil {
		errs = append(errs, fmt.Errorf("redis-url: %w", err))
	}
	if c.MaxBody < 0 {
		errs = append(errs, errors.New("max-body: negative"))
	}
	if c.MaxResponse < 0 {
		errs = append(errs, errors.New("max-response: negative"))
	}
	if c.Drain < 0 {
		errs = append(errs, errors.New("drain: negative"))
	}
	if c.RedisTimeout < 0 {
		errs = append(errs, errors.New("redis-timeout: negative"))
	}
	if c.IsolatedAfter < 0 {
		errs = append(errs, errors.New("isolated-after: negative"))
	}
	if c.FlushTimeout < 0 {
		errs = append(errs, errors.New("flush-timeout: negative"))
	}
	if c.ShutdownTimeout < 0 {
		errs = append(errs, errors.New("shutdown-timeout: negative"))
	}
	return errors.Join(append(errs, c.Kafka.Validate(), c.spool(slog.New(slog.DiscardHandler), nil).Validate())...)
}

// spool returns the settings of the spool, in its folder.
func (c Config) spool(log *slog.Logger, reg prometheus.Registerer) spool.Config {
	s := c.Spool
	if s.Dir == "" {
		s.Dir = c.DataDir + "/spool"
	}
	s.Kafka, s.Log, s.Metrics = c.Kafka, log, reg
	return s
}
