package standalone

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/schemas/secret"
	"github.com/rateguard/rateguard/topics/broker"
)

// Config holds the settings of everything that runs in the one process. An empty URL means the
// embedded engine.
type Config struct {
	// ProxyAddr is the data plane's address; default :8080.
	ProxyAddr string
	// AdminAddr is the address of the admin and analytics API; default 127.0.0.1:8081.
	AdminAddr string
	// OpsAddr serves /healthz, /readyz and /metrics; default 127.0.0.1:9090.
	OpsAddr string
	// MockAddr is the mock provider's address; default 127.0.0.1:8090, empty: none.
	MockAddr string
	// Listeners win over the addresses when they are set.
	Listeners Listeners

	// DataDir holds the embedded stores, the spool and the generated secrets; default ./data.
	DataDir string
	// CacheDir keeps fetched engines; empty: the user's cache.
	CacheDir string
	// AdminToken is the admin API's root credential; empty: generated once into DataDir.
	AdminToken string
	// SecretKey seals upstream credentials; empty: generated once into DataDir.
	SecretKey string

	// Kafka replaces the embedded broker when it names brokers.
	Kafka broker.Config
	// RedisURL replaces the embedded Redis.
	RedisURL string
	// PostgresURL replaces the embedded PostgreSQL.
	PostgresURL string
	// ClickHouseURL replaces the embedded ClickHouse.
	ClickHouseURL string

	// Demo seeds the workspace demo; default true.
	Demo bool
	// MockPace is how fast the mock provider answers: "realistic" (default), "instant" or its settings.
	MockPace string
	// Providers are real credentials for the demo's routes; where one is empty, the mock answers.
	Providers Providers

	// Roles holds the settings of the roles beyond the ones above.
	Roles Roles
}

// Listeners are sockets that the caller opened.
type Listeners struct {
	Proxy, Admin, Ops, Mock net.Listener
}

// Providers are the credentials of real providers.
type Providers struct {
	OpenAI, Anthropic, Gemini string
}

// ProvidersFromEnv reads them from the variables that the providers' own SDKs use.
func ProvidersFromEnv() Providers {
	return Providers{
		OpenAI: os.Getenv("OPENAI_API_KEY"), Anthropic: os.Getenv("ANTHROPIC_API_KEY"), Gemini: os.Getenv("GEMINI_API_KEY"),
	}
}

// Default returns the settings of `rateguard up` without any flag.
func Default() Config {
	return Config{
		ProxyAddr: ":8080", AdminAddr: "127.0.0.1:8081", OpsAddr: "127.0.0.1:9090", MockAddr: "127.0.0.1:8090",
		DataDir: "./data", Demo: true, MockPace: "realistic", Roles: defaultRoles(),
	}
}

// Register adds the settings to a flag set. Settings that only one role has are added too.
func (c *Config) Register(fs *flag.FlagSet) {
	fs.StringVar(&c.ProxyAddr, "proxy-addr", c.ProxyAddr, "address of the data plane")
	fs.StringVar(&c.AdminAddr, "admin-addr", c.AdminAddr, "address of the admin and analytics API")
	fs.StringVar(&c.OpsAddr, "ops-addr", c.OpsAddr, "address of /healthz, /readyz and /metrics")
	fs.StringVar(&c.MockAddr, "mock-addr", c.MockAddr, "address of the mock provider; empty: none")
	fs.StringVar(&c.DataDir, "data-dir", c.DataDir, "folder of the embedded stores, the spool and the generated secrets")
	fs.StringVar(&c.AdminToken, "admin-token", c.AdminToken, "root credential of the admin API; empty: generated once into the data folder")
	fs.StringVar(&c.SecretKey, "secret-key", c.SecretKey, "32 bytes in hex or base64 that seal upstream credentials; empty: generated once into the data folder")
	fs.StringVar(&c.RedisURL, "redis-url", c.RedisURL, "Redis: redis://…, redis+cluster://… or redis+sentinel://…; empty: embedded")
	fs.StringVar(&c.PostgresURL, "postgres-url", c.PostgresURL, "PostgreSQL, postgres://…; empty: embedded")
	fs.StringVar(&c.ClickHouseURL, "clickhouse-url", c.ClickHouseURL, "ClickHouse, http://user:password@host:port/database; empty: embedded")
	fs.BoolVar(&c.Demo, "demo", c.Demo, "seed the workspace demo")
	fs.StringVar(&c.MockPace, "mock-pace", c.MockPace, `pace of the mock provider: "realistic", "instant" or e.g. "ttft=100ms,tps=50"`)
	c.Kafka.Register(fs)
	c.Roles.register(fs)
}

// Validate returns every problem of the shared settings, joined; each names its flag. The roles
// check their own when they are made.
func (c Config) Validate() error {
	var errs []error
	for _, a := range []struct {
		flag, addr string
		set, empty bool
	}{
		{"proxy-addr", c.ProxyAddr, c.Listeners.Proxy != nil, false},
		{"admin-addr", c.AdminAddr, c.Listeners.Admin != nil, false},
		{"ops-addr", c.OpsAddr, c.Listeners.Ops != nil, false},
		{"mock-addr", c.MockAddr, c.Listeners.Mock != nil, true},
	} {
		if a.set || a.empty && a.addr == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.flag, err))
		}
	}
	if c.DataDir == "" {
		errs = append(errs, errors.New("data-dir: required"))
	}
	if c.AdminToken != "" && len(c.AdminToken) < minToken {
		errs = append(errs, fmt.Errorf("admin-token: at least %d characters", minToken))
	}
	if c.SecretKey != "" {
		if _, err := secret.ParseKey(c.SecretKey); err != nil {
			errs = append(errs, fmt.Errorf("secret-key: %w", err))
		}
	}
	if c.Kafka.Brokers != "" {
		errs = append(errs, c.Kafka.Validate())
	}
	// Nothing of a URL is shown: it may hold a password.
	for _, u := range []struct {
		flag, url string
		schemes   []string
	}{
		{"postgres-url", c.PostgresURL, []string{"postgres", "postgresql"}},
		{"clickhouse-url", c.ClickHouseURL, []string{"http", "https", "clickhouse", "tcp"}},
	} {
		if u.url != "" && !hasScheme(u.url, u.schemes) {
			errs = append(errs, fmt.Errorf("%s: must begin with one of %s", u.flag, strings.Join(u.schemes, "://, ")+"://"))
		}
	}
	if c.RedisURL != "" {
		if err := lua.ParseStoreURL(c.RedisURL); err != nil {
			errs = append(errs, fmt.Errorf("redis-url: %w", err))
		}
	}
	if c.Demo && c.MockAddr == "" && c.Listeners.Mock == nil && c.Providers == (Providers{}) {
		errs = append(errs, errors.New("demo: needs mock-addr or a provider's key (OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY)"))
	}
	return errors.Join(errs...)
}

func hasScheme(url string, schemes []string) bool {
	for _, s := range schemes {
		if strings.HasPrefix(url, s+"://") {
			return true
		}
	}
	return false
}

// path returns a place in the data folder.
func (c Config) path(name ...string) string {
	return filepath.Join(append([]string{c.DataDir}, name...)...)
}
