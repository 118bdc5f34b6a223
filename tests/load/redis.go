package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

// redisMeter reads what Redis has done, from its own books.
type redisMeter struct{ client *redis.Client }

// redisUse is a reading: the server's processor time, and how many scripts it ran.
type redisUse struct {
	cpu   time.Duration
	calls int64
}

func newRedisMeter(url string) (*redisMeter, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("reading the URL of Redis: %w", err)
	}
	return &redisMeter{redis.NewClient(o)}, nil
}

func (m *redisMeter) close() { _ = m.client.Close() }

// read returns the books as they are; nothing without a Redis.
func (m *redisMeter) read() (use redisUse, err error) {
	if m == nil {
		return use, nil
	}
	text, err := m.client.Info(context.Background(), "cpu", "commandstats").Result()
	if err != nil {
		return use, fmt.Errorf("reading INFO: %w", err)
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "used_cpu_user", "used_cpu_sys":
			s, _ := strconv.ParseFloat(value, 64)
			use.cpu += time.Duration(s * float64(time.Second))
		case "cmdstat_evalsha":
			n, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
			use.calls, _ = strconv.ParseInt(n, 10, 64)
		}
	}
	return use, nil
}

// compare notes what Redis did for a loop that just ended, and what the bare script costs it at the same rate, for so long.
func (m *redisMeter) compare(f *figures, before redisUse, r result, connections int, duration time.Duration) error {
	if m == nil {
		return nil
	}
	after, err := m.read()
	if err != nil {
		return err
	}
	f.RedisCalls = float64(after.calls-before.calls) / float64(max(1, r.requests))
	f.RedisCPUMicroseconds = perRequest(after.cpu-before.cpu, r)
	if before, err = m.read(); err != nil {
		return err
	}
	ran, err := m.bareScript(r.rps(), connections, duration)
	if err != nil {
		return err
	}
	if after, err = m.read(); err != nil {
		return err
	}
	f.BareScriptCPUMicroseconds = float64((after.cpu - before.cpu).Microseconds()) / float64(max(1, ran))
	return nil
}

// bare sends a script with the client alone: no deadline, no breaker, no clock.
type bare struct{ client *redis.Client }

// Eval implements lua.Evaluator. The proxy under test has loaded the script.
func (b bare) Eval(ctx context.Context, script *lua.Script, keys []string, args func(lua.Times) []any) (lua.Reply, error) {
	values, err := b.client.EvalSha(ctx, script.SHA(), keys, args(lua.Times{})...).Slice()
	if err != nil {
		return lua.Reply{}, fmt.Errorf("running the bare script: %w", err)
	}
	us, _ := values[1].(int64)
	return lua.Reply{Values: values, RedisUS: us}, nil
}

// bareScript decides requests with the limits of the strict workspace at the rate, on as many connections as the loop before.
func (m *redisMeter) bareScript(rate float64, connections int, duration time.Duration) (ran int64, err error) {
	admissions := lua.NewAdmissions(bare{m.client}, prometheus.NewRegistry())
	var takes []lua.Take
	for i, l := range limits(workspaces[1]) {
		scale, err := limit.NewScale(l.GetLimit(), l.GetWindowUs(), l.GetBurst())
		if err != nil {
			return 0, fmt.Errorf("scaling a limit: %w", err)
		}
		prepared := lua.NewLimit(l, scale)
		takes = append(takes, lua.Take{Limit: &prepared, Bucket: keyspace.Bucket("bare", l.GetId(), []string{"", "key_bare", "gpt-4o-mini"}[i]), Amount: 1})
	}
	start := time.Now()
	total := int64(rate * duration.Seconds())
	var next, done atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, connections)
	for i := range errs {
		wg.Go(func() {
			for n := next.Add(1); n <= total && errs[i] == nil; n = next.Add(1) {
				time.Sleep(time.Until(start.Add(time.Duration(float64(n) / rate * float64(time.Second)))))
				_, errs[i] = admissions.Admit(context.Background(), &lua.Request{
					Workspace: "bare", Reservation: strconv.FormatInt(start.UnixNano()+n, 36), Key: "key_bare", PolicyVersion: 1, Takes: takes,
				})
				done.Add(1)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return done.Load(), nil
}
