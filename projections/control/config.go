package control

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/rateguard/rateguard/projections/control/mirror"
	"github.com/rateguard/rateguard/schemas/secret"
	"github.com/rateguard/rateguard/topics/broker"
)

// Config holds the settings of the control role.
type Config struct {
	// AdminAddr is where the admin and analytics API listens; default 127.0.0.1:8081.
	AdminAddr string
	// Listener, when set, is used instead of AdminAddr.
	Listener net.Listener
	// AdminToken is the root credential of the API. It has no default.
	AdminToken string
	// SecretKey seals upstream credentials; see secret.ParseKey. It has no default.
	SecretKey string
	// PostgresURL is the system of record ("postgres://…").
	PostgresURL string
	// ClickHouseURL is the analytics store, a DSN of clickhouse-go.
	ClickHouseURL string
	// RedisURL is where proxies find new policies and revocations before Kafka has them, redis://…; empty: off.
	RedisURL string
	// Kafka says how to reach the brokers.
	Kafka broker.Config

	// TickInterval is the time between two ticks of the ticks topic; default 10 s.
	TickInterval time.Duration
	// ReconcileInterval is the time between two comparisons of the topics with Postgres; default 60 s.
	ReconcileInterval time.Duration

	// Fail, when set, is called at each step of a reprice; an error abandons the run there as a crash would. For tests.
	Fail func(RepriceStep) error
}

// Defaults of the settings that have one.
const (
	defaultAdminAddr         = "127.0.0.1:8081"
	defaultTickInterval      = 10 * time.Second
	defaultReconcileInterval = time.Minute
	// minAdminToken keeps a root credential from being guessed.
	minAdminToken = 16
)

// Register adds the settings to a flag set.
func (c *Config) Register(fs *flag.FlagSet) {
	c.setDefaults()
	fs.StringVar(&c.AdminAddr, "admin-addr", c.AdminAddr, "address of the admin and analytics API")
	fs.StringVar(&c.AdminToken, "admin-token", c.AdminToken, "root credential of the admin API")
	fs.StringVar(&c.SecretKey, "secret-key", c.SecretKey, "32 bytes in hex or base64 that seal upstream credentials")
	fs.StringVar(&c.PostgresURL, "postgres-url", c.PostgresURL, "PostgreSQL, postgres://…")
	fs.StringVar(&c.ClickHouseURL, "clickhouse-url", c.ClickHouseURL, "ClickHouse, http://user:password@host:port/database or clickhouse://…")
	fs.StringVar(&c.RedisURL, "redis-url", c.RedisURL, "Redis of limits and budgets, redis://…; empty: proxies hear of revocations by Kafka alone")
	fs.DurationVar(&c.TickInterval, "tick-interval", c.TickInterval, "time between two ticks for the folds")
	fs.DurationVar(&c.ReconcileInterval, "reconcile-interval", c.ReconcileInterval, "time between two comparisons of topics and PostgreSQL")
	c.Kafka.Register(fs)
}

// setDefaults fills what is empty, so that a Config made in code needs no flag set.
func (c *Config) setDefaults() {
	if c.AdminAddr == "" {
		c.AdminAddr = defaultAdminAddr
	}
	if c.TickInterval == 0 {
		c.TickInterval = defaultTickInterval
	}
	if c.ReconcileInterval == 0 {
		c.ReconcileInterval = defaultReconcileInterval
	}
}

// Validate returns every problem of the settings, joined; each names its flag.
func (c Config) Validate() error {
	c.setDefaults()
	var errs []error
	if c.Listener == nil {
		if _, _, err := net.SplitHostPort(c.AdminAddr); err != nil {
			errs = append(errs, fmt.Errorf("admin-addr: %w", err))
		}
	}
	if len(c.AdminToken) < minAdminToken {
		errs = append(errs, fmt.Errorf("admin-token: at least %d characters are required", minAdminToken))
	}
	if _, err := secret.ParseKey(c.SecretKey); err != nil {
		errs = append(errs, fmt.Errorf("secret-key: %w", err))
	}
	if u, err := url.Parse(c.PostgresURL); err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		errs = append(errs, errors.New("postgres-url: required, postgres://…")) // the URL holds a password: it is never shown
	}
	if c.ClickHouseURL == "" {
		errs = append(errs, errors.New("clickhouse-url: required"))
	}
	if c.RedisURL != "" {
		if err := mirror.CheckURL(c.RedisURL); err != nil {
			errs = append(errs, fmt.Errorf("redis-url: %w", err))
		}
	}
	if c.TickInterval < 0 {
		errs = append(errs, errors.New("tick-interval: must be positive"))
	}
	if c.ReconcileInterval < 0 {
		errs = append(errs, errors.New("reconcile-interval: must be positive"))
	}
	return errors.Join(append(errs, c.Kafka.Validate())...)
}
