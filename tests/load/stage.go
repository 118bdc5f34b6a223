package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/deploy/standalone/kafka"
	"github.com/rateguard/rateguard/deploy/standalone/redis"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/limit"
	"github.com/rateguard/rateguard/schemas/secret"
	"github.com/rateguard/rateguard/tests/harness/ports"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/provision"
)

const (
	adminToken = "load-0123456789abcdef0123456789abcdef"
	secretKey  = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
	// upstreamKey is what the provider takes: the mock refuses a gateway's own keys.
	upstreamKey = "sk-load"
	completed   = `{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You are terse."},{"role":"user","content":"Say what a ledger is, in one sentence."}],"max_tokens":64}`
	streamed    = `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say what a ledger is, in one sentence."}],"max_tokens":64,"stream":true,"stream_options":{"include_usage":true}}`
)

// workspace is one of the proxy role's, by what its requests are held to.
type workspace struct {
	id, name string
	// mode is that of its three limits and of its budgets, empty: it has no limits. budgets says that it has two hard budgets.
	mode    string
	budgets bool
}

// workspaces are measured in this order.
var workspaces = []workspace{
	{"plain", "proxy role", "", false},
	{"strict", "proxy role, 3 strict limits", limit.ModeStrict, false},
	{"leased", "proxy role, 3 leased limits", limit.ModeLeased, false},
	{"strict-budgets", "  and 2 hard budgets, strict", limit.ModeStrict, true},
	{"leased-budgets", "  and 2 hard budgets, leased", limit.ModeLeased, true},
}

// key is the API key of a workspace.
func key(workspace string) string { return "rg_load" + fmt.Sprintf("%028x", workspace) }

// limits are three that bind nobody here: what they cost is what is measured.
func limits(w workspace) (all []*rateguardv1.Limit) {
	if w.mode == "" {
		return nil
	}
	for _, scope := range []string{limit.ScopeWorkspace, limit.ScopeKey, limit.ScopeModel} {
		all = append(all, limit.WithDefaults(&rateguardv1.Limit{Id: "per-" + scope, Scope: scope, Limit: 6_000_000, WindowUs: 60e6, Burst: 100_000, Mode: w.mode}))
	}
	return all
}

// budgets are two that are never spent here.
func budgets(w workspace) []*rateguardv1.Budget {
	if !w.budgets {
		return nil
	}
	day := time.Now().UTC().Truncate(24 * time.Hour)
	month := time.Date(day.Year(), day.Month(), 1, 0, 0, 0, 0, time.UTC)
	var percent int32
	if w.mode == limit.ModeLeased {
		percent = limit.DefaultLeasePercent
	}
	return []*rateguardv1.Budget{
		{
			Mode: w.mode, LeasePercent: percent,
			Id: "monthly", Generation: 1, Scope: "workspace", LimitNanoUsd: 1_000_000e9, Period: "month", Timezone: "UTC", Enforcement: "hard", OnStoreFailure: "closed",
			BoundariesUnixUs: []int64{month.UnixMicro(), month.AddDate(0, 1, 0).UnixMicro(), month.AddDate(0, 2, 0).UnixMicro()},
		},
		{
			Mode: w.mode, LeasePercent: percent,
			Id: "daily", Generation: 1, Scope: "key", LimitNanoUsd: 1_000_000e9, Period: "day", Timezone: "UTC", Enforcement: "hard", OnStoreFailure: "closed",
			BoundariesUnixUs: []int64{day.UnixMicro(), day.AddDate(0, 0, 1).UnixMicro(), day.AddDate(0, 0, 2).UnixMicro()},
		},
	}
}

// target is one thing under load.
type target struct {
	name    string
	address string
	// key is the API key that the target takes.
	key     string
	process *process
	// whole counts the processor time and memory of the children too.
	whole bool
	// store is the Redis that decides the target's limits; nil: it has none.
	store *redisMeter
}

// stage is everything that one run of the harness starts. Fields are set in order of start.
type stage struct {
	dir      string
	bin      string
	upstream *process
	closers  []func()
	targets  []target
}

func (s *stage) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
}

// rest waits until what the turn before has left to do is done: records that are shipped, read and brought into stores afterwards. It would be counted for the
// next target, which may be the same process. What never rests is not waited for.
func (s *stage) rest() {
	const look, busy, most = 300 * time.Millisecond, 50 * time.Millisecond, 15 * time.Second
	used := func() (sum time.Duration) {
		for p, whole := range s.processes() {
			sum += p.cpu(whole)
		}
		return sum
	}
	before := used()
	for start := time.Now(); time.Since(start) < most; {
		time.Sleep(look)
		now := used()
		if now-before < busy {
			return
		}
		before = now
	}
}

// processes returns those of all targets, and whether their children count too.
func (s *stage) processes() map[*process]bool {
	all := make(map[*process]bool)
	for _, t := range s.targets {
		all[t.process] = t.whole
	}
	return all
}

// open starts the upstream, the floor, the proxy role alone on its own Kafka and Redis, and all of `rateguard up`.
func open(ctx context.Context, dir, bin string) (*stage, error) {
	s := &stage{dir: dir, bin: bin}
	for _, step := range []func(context.Context) error{s.startUpstream, s.startFloor, s.startProxy, s.startUp} {
		if err := step(ctx); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *stage) startUpstream(ctx context.Context) error {
	addresses, err := ports.Addresses(ctx, 1)
	if err != nil {
		return err
	}
	address := addresses[0]
	if s.upstream, err = s.self("upstream", address); err != nil {
		return err
	}
	s.targets = append(s.targets, target{name: "mock alone", address: address, key: upstreamKey, process: s.upstream})
	return answers(ctx, address)
}

func (s *stage) startFloor(ctx context.Context) error {
	addresses, err := ports.Addresses(ctx, 1)
	if err != nil {
		return err
	}
	address := addresses[0]
	p, err := s.self("floor", address, "http://"+s.targets[0].address)
	if err != nil {
		return err
	}
	s.targets = append(s.targets, target{name: "bare ReverseProxy", address: address, key: upstreamKey, process: p})
	return answers(ctx, address)
}

// startProxy starts the proxy role alone. Its broker and Redis run elsewhere, as in production.
func (s *stage) startProxy(ctx context.Context) error {
	log := slog.New(slog.DiscardHandler)
	broker, err := kafka.Start(ctx, kafka.Config{Dir: filepath.Join(s.dir, "kafka"), Log: log})
	if err != nil {
		return fmt.Errorf("starting the broker: %w", err)
	}
	s.closers = append(s.closers, func() { _ = broker.Close() })
	store, err := redis.Start(ctx, redis.Config{Dir: filepath.Join(s.dir, "redis"), Log: log, NoFallback: true})
	if err != nil {
		return fmt.Errorf("starting Redis: %w", err)
	}
	s.closers = append(s.closers, func() { _ = store.Close() })
	if err := publish(ctx, broker.Brokers(), "http://"+s.targets[0].address); err != nil {
		return err
	}
	addresses, err := ports.Addresses(ctx, 2)
	if err != nil {
		return err
	}
	address, ops := addresses[0], addresses[1]
	p, err := s.child("proxy", []string{
		"RATEGUARD_PROXY_ADDR=" + address, "RATEGUARD_OPS_ADDR=" + ops, "RATEGUARD_DATA_DIR=" + filepath.Join(s.dir, "proxy"),
		"RATEGUARD_SECRET_KEY=" + secretKey, "RATEGUARD_KAFKA_BROKERS=" + broker.Brokers(), "RATEGUARD_REDIS_URL=" + store.URL(),
	}, filepath.Join(s.bin, "rateguard-proxy"))
	if err != nil {
		return err
	}
	meter, err := newRedisMeter(store.URL())
	if err != nil {
		return err
	}
	s.closers = append(s.closers, meter.close)
	for _, w := range workspaces {
		t := target{name: w.name, address: address, key: key(w.id), process: p}
		if w.mode != "" {
			t.store = meter
		}
		s.targets = append(s.targets, t)
	}
	return answers(ctx, address)
}

// startUp starts `rateguard up` with a workspace of its own, made through the admin API as a user would.
func (s *stage) startUp(ctx context.Context) error {
	addresses, err := ports.Addresses(ctx, 3)
	if err != nil {
		return err
	}
	data := filepath.Join(s.dir, "up")
	p, err := s.child("up", []string{
		"RATEGUARD_PROXY_ADDR=" + addresses[0], "RATEGUARD_ADMIN_ADDR=" + addresses[1], "RATEGUARD_OPS_ADDR=" + addresses[2],
		"RATEGUARD_DATA_DIR=" + data, "RATEGUARD_DEMO=false", "RATEGUARD_ADMIN_TOKEN=" + adminToken,
	}, filepath.Join(s.bin, "rateguard"), "up", "--mock-addr=")
	if err != nil {
		return err
	}
	if err := answers(ctx, addresses[0]); err != nil {
		return err
	}
	secret, err := seed(ctx, "http://"+addresses[1], "http://"+s.targets[0].address)
	if err != nil {
		return err
	}
	s.targets = append(s.targets, target{name: "rateguard up, all roles", address: addresses[0], key: secret, process: p, whole: true})
	return nil
}

func (s *stage) self(args ...string) (*process, error) {
	me, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	return s.child(args[0], nil, me, args...)
}

func (s *stage) child(name string, env []string, program string, args ...string) (*process, error) {
	p, err := start(filepath.Join(s.dir, name+".out"), env, program, args...)
	if err == nil {
		s.closers = append(s.closers, p.stop)
	}
	return p, err
}

// publish writes the configuration of the proxy role's workspaces into the topics that control would write.
func publish(ctx context.Context, brokers, upstream string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	if err != nil {
		return fmt.Errorf("making a Kafka client: %w", err)
	}
	defer client.Close()
	if err := provision.Apply(ctx, kadm.NewClient(client), provision.Standalone()); err != nil {
		return fmt.Errorf("making the topics: %w", err)
	}
	sealing, err := secret.ParseKey(secretKey)
	if err != nil {
		return fmt.Errorf("reading the secret key: %w", err)
	}
	type record struct {
		topic          topics.Topic
		workspace, key string
		event          *rateguardv1.Event
	}
	var records []record
	for _, w := range workspaces {
		workspace := w.id
		sum := sha256.Sum256([]byte(key(workspace)))
		sealed := secret.Seal(sealing, workspace, "openai", []byte(upstreamKey))
		records = append(records, record{topics.Keys, workspace, "key_" + workspace, &rateguardv1.Event{Body: &rateguardv1.Event_KeyRecord{KeyRecord: &rateguardv1.KeyRecord{
			KeyId: "key_" + workspace, WorkspaceId: workspace, Name: "load", Sha256: sum[:], Version: 1,
		}}}}, record{topics.Policies, workspace, workspace, &rateguardv1.Event{Body: &rateguardv1.Event_WorkspacePolicy{WorkspacePolicy: &rateguardv1.WorkspacePolicy{
			WorkspaceId: workspace, Name: "load", Version: 1, Limits: limits(w), Budgets: budgets(w),
			Routes: []*rateguardv1.Route{{Id: "openai", Provider: "openai", BaseUrl: upstream, CredentialSealed: sealed, TimeoutUs: 30e6, IdleTimeoutUs: 30e6}},
		}}}})
	}
	for _, r := range records {
		r.event.Id, r.event.WorkspaceId, r.event.OccurredAtUnixUs = rand.Text(), r.workspace, time.Now().UnixMicro()
		value, err := envelope.Encode(r.event)
		if err != nil {
			return err
		}
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: r.topic.Name, Key: []byte(r.key), Value: value}).FirstErr(); err != nil {
			return fmt.Errorf("publishing to %s: %w", r.topic.Name, err)
		}
	}
	return nil
}

// answers waits until a TCP server at the address takes connections.
func answers(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		response, err := get(ctx, "http://"+address+"/")
		if err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			return response.Body.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", address, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func get(ctx context.Context, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(request)
}

// fingerprint names the build in the report.
func fingerprint(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}
