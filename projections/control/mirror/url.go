package mirror

import (
	"errors"
	"strings"

	"github.com/redis/go-redis/v9"
)

// errURL never shows the URL: it holds a password.
var errURL = errors.New("no redis://…, redis+cluster://…?addr=… or redis+sentinel://…?master_name=… URL")

// CheckURL returns an error for a URL that is none of a Redis: redis:// and rediss:// are one server, +cluster and +sentinel in the scheme
// a cluster and what sentinels watch, as the proxies take them.
func CheckURL(raw string) error {
	_, err := parse(raw)
	return err
}

// parse returns how to open a client. What is written here bears repetition, so the client may repeat.
func parse(raw string) (func() redis.UniversalClient, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	base, kind, _ := strings.Cut(scheme, "+")
	if !ok || base != "redis" && base != "rediss" {
		return nil, errURL
	}
	plain := base + "://" + rest
	switch kind {
	case "":
		o, err := redis.ParseURL(plain)
		if err != nil {
			return nil, errURL
		}
		o.ContextTimeoutEnabled, o.DialTimeout = true, patience
		return func() redis.UniversalClient { return redis.NewClient(o) }, nil
	case "cluster":
		o, err := redis.ParseClusterURL(plain)
		if err != nil {
			return nil, errURL
		}
		o.ContextTimeoutEnabled, o.DialTimeout = true, patience
		return func() redis.UniversalClient { return redis.NewClusterClient(o) }, nil
	case "sentinel":
		o, err := redis.ParseFailoverURL(plain)
		if err != nil || o.MasterName == "" {
			return nil, errURL
		}
		o.ContextTimeoutEnabled, o.DialTimeout = true, patience
		return func() redis.UniversalClient { return redis.NewFailoverClient(o) }, nil
	}
	return nil, errURL
}
