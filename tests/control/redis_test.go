package control_test

import (
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/deploy/standalone/redis"
	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/topics"
)

// newRedis starts a server and returns its URL and a client of it.
func newRedis(t *testing.T) (string, *goredis.Client) {
	t.Helper()
	server, err := redis.Start(t.Context(), redis.Config{Dir: filepath.Join(t.TempDir(), "redis"), NoFallback: true})
	if err != nil {
		t.Fatal(err)
	}
	opts, err := goredis.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	client := goredis.NewClient(opts)
	t.Cleanup(func() {
		_ = client.Close()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.URL(), client
}

func flags(t *testing.T, client *goredis.Client, ws string) []string {
	t.Helper()
	keys, err := client.SMembers(t.Context(), keyspace.Revoked(id(ws))).Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	return keys
}

func TestPoliciesAndRevocationsAreInRedis(t *testing.T) {
	kafka := brokers(newCluster(t))
	cfg := settings(t, newDatabase(t), kafka)
	var client *goredis.Client
	cfg.RedisURL, client = newRedis(t)
	s, _ := running(t, cfg)
	ws := s.workspace("a")
	first, _ := s.key(ws, map[string]any{})
	second, _ := s.key(ws, map[string]any{})
	s.root().do("PUT", ws+"/limits/l", anyLimit).want(t, 201)
	s.root().do("POST", ws+"/keys/"+first+"/revoke", nil).want(t, 200)
	await(t, "the flag", func() bool { return slices.Equal(flags(t, client, ws), []string{first}) })

	l := follow(t, kafka, topics.Policies.Name)
	all := l.until("the policy with the limit", func(all []record) bool { return len(lastPolicy(all, id(ws)).GetLimits()) == 1 })
	published := all[slices.IndexFunc(all, func(r record) bool { return len(r.event.GetWorkspacePolicy().GetLimits()) == 1 })]
	await(t, "the policy", func() bool {
		v, err := client.HGet(t.Context(), keyspace.Policy(id(ws)), "v").Result()
		return err == nil && v == "2"
	})
	if d := client.HGet(t.Context(), keyspace.Policy(id(ws)), "d").Val(); d != string(published.value) {
		t.Errorf("document: got %q, want the record's value %q", d, published.value)
	}

	if err := client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	await(t, "the flag to come back", func() bool { return slices.Equal(flags(t, client, ws), []string{first}) })
	await(t, "the policy to come back", func() bool {
		e, err := envelope.Decode([]byte(client.HGet(t.Context(), keyspace.Policy(id(ws)), "d").Val()))
		return err == nil && len(e.GetWorkspacePolicy().GetLimits()) == 1
	})

	s.root().do("DELETE", ws, nil).want(t, 204)
	both := []string{first, second}
	slices.Sort(both)
	await(t, "the flags of all keys of a deleted workspace", func() bool { return slices.Equal(flags(t, client, ws), both) })
}

// TestRevocationsOfBeforeAreInRedis starts a role with Redis over a database that knows revocations already.
func TestRevocationsOfBeforeAreInRedis(t *testing.T) {
	database := newDatabase(t)
	before := idle(t, settings(t, database, "127.0.0.1:1"))
	ws := before.workspace("a")
	keyID, _ := before.key(ws, map[string]any{})
	before.root().do("POST", ws+"/keys/"+keyID+"/revoke", nil).want(t, 200)
	cfg := settings(t, database, "127.0.0.1:1")
	var client *goredis.Client
	cfg.RedisURL, client = newRedis(t)
	running(t, cfg)
	await(t, "the flag", func() bool { return slices.Equal(flags(t, client, ws), []string{keyID}) })
}

// TestTheAPIDoesNotWaitForRedis has a Redis that takes connections and never answers. Of several revocations one has to be fast.
func TestTheAPIDoesNotWaitForRedis(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mute.Close() })
	cfg := settings(t, newDatabase(t), "127.0.0.1:1")
	cfg.RedisURL = "redis://" + mute.Addr().String()
	s, _ := running(t, cfg)
	ws := s.workspace("a")
	fastest := patience
	for range 5 {
		keyID, _ := s.key(ws, map[string]any{})
		start := time.Now()
		s.root().do(http.MethodPost, ws+"/keys/"+keyID+"/revoke", nil).want(t, 200)
		fastest = min(fastest, time.Since(start))
	}
	if fastest > 500*time.Millisecond {
		t.Errorf("the fastest of 5 revocations took %s", fastest)
	}
}
