package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/tests/harness"
)

// A workspace that is used seldom: its state in Redis is near the end of its time when a call comes, which renews all of it; and it ends while a call is under way,
// whose settle then finds nothing. Everything of it is gone together, and comes back from the log.
func TestAnIdleWorkspaceKeepsItsBudgets(t *testing.T) {
	t.Parallel()
	const nearly = 399 * 24 * time.Hour
	s := harness.New(t)
	tenant := s.Tenant(t)
	call := request{method: http.MethodGet, key: tenant.Key, path: "/http/x"}
	setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "0.000000001", Period: "total"})
	awaitHeld(t, s.ProxyURL, call, http.StatusPaymentRequired)
	setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "0.04", Period: "total"}) // 20 calls
	awaitHeld(t, s.ProxyURL, call, http.StatusOK)
	rdb, key := redisOf(t, s), keyspace.State(tenant.ID)

	// The last call was 400 days ago, but for a minute.
	if err := errors.Join(rdb.HSet(t.Context(), key, "day", "1").Err(), rdb.PExpire(t.Context(), key, time.Minute).Err()); err != nil {
		t.Fatal(err)
	}
	if got := send(t, s, call); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if left, err := rdb.PTTL(t.Context(), key).Result(); err != nil || left < nearly {
		t.Errorf("the state ends in %s although it was used now (%v)", left, err)
	}
	if left := s.AwaitBalance(t, tenant, "all"); left < 2*harness.HTTPCostNano {
		t.Errorf("posted %d", left)
	}

	slow, answered := call, make(chan int, 1)
	slow.header = map[string]string{"X-Mock-Pace": "ttft=1s"}
	go func() {
		status, _ := askAt(t, s.ProxyURL, slow)
		answered <- status
	}()
	harness.Eventually(t, 10*time.Second, func() error {
		b, err := s.Admin.Budget(t.Context(), tenant.ID, "all")
		if err == nil && (b.Balance == nil || b.Balance.ReservedUSD == "0") {
			err = errors.New("nothing is under way")
		}
		return err
	})
	if err := rdb.PExpire(t.Context(), key, time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	if status := <-answered; status != http.StatusOK {
		t.Errorf("the call that was under way: %d", status)
	}
	if n, err := rdb.Exists(t.Context(), key).Result(); err != nil || n != 0 {
		t.Errorf("a settle made a part of the state anew (%v)", err)
	}
	awaitHeld(t, s.ProxyURL, call, http.StatusPaymentRequired)
	if left, err := rdb.PTTL(t.Context(), key).Result(); err != nil || left < nearly {
		t.Errorf("the state that was made anew ends in %s (%v)", left, err)
	}
	posted := s.AwaitBalance(t, tenant, "all")
	a := s.ReadAdmissions(t, tenant.ID)
	if n := a.Check(); n != 20 || posted != 20*harness.HTTPCostNano || len(a.Epochs()) < 2 {
		t.Errorf("%d admissions in the epochs %v, %d nano-USD posted; the budget has room for 20", n, a.Epochs(), posted)
	}
}

// A proxy tells Redis of an end once, and goes on whether it hears an answer or not. Where the answer is lost the settle has run; where the call is lost the log brings
// it in. Either way each call is charged once, what it did not use is free, and clients notice nothing.
func TestALostSettleIsChargedOnce(t *testing.T) {
	t.Parallel()
	for _, answers := range []bool{true, false} {
		t.Run(map[bool]string{true: "the answer is lost", false: "the call is lost"}[answers], func(t *testing.T) {
			t.Parallel()
			s := harness.New(t)
			tenant := s.Tenant(t)
			way := newSettles(t, s.Config().RedisURL, answers)
			e := startEdgeOn(t, s, t.TempDir(), s.Config().Kafka, way.url)
			chat := request{key: tenant.Key, path: "/v1/chat/completions", body: `{"model":"gpt-4o-mini","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}`}
			setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "0.000000001", Period: "total"})
			awaitHeld(t, e.url, chat, http.StatusPaymentRequired)
			setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "0.01", Period: "total"})
			awaitHeld(t, e.url, chat, http.StatusOK)
			for range 30 {
				awaitHeld(t, e.url, chat, http.StatusOK) // a busy machine may miss a decision's deadline
			}
			if n := way.lost.Load(); n < 5 {
				t.Errorf("%d settles were lost", n)
			}
			posted := s.AwaitBalance(t, tenant, "all")
			// Redis is at rest at what the log says; all calls were alike.
			if n := s.ReadAdmissions(t, tenant.ID).Check(); n != 31 || posted == 0 || posted%31 != 0 {
				t.Errorf("%d admissions cost %d nano-USD, want those of 31 calls", n, posted)
			}
		})
	}
}

// isSettle reports whether it is the call of a script with one key and two arguments, a reservation and its cost.
func isSettle(b []byte) bool {
	return bytes.Contains(b, []byte("*6\r\n$7\r\nevalsha\r\n")) && bytes.Contains(b, []byte("/1\r\n"))
}

// settles is a way to Redis on which each third settle is lost, or its answer, and the connection with it.
type settles struct {
	url     string
	to      string
	answers bool
	seen    atomic.Int64
	lost    atomic.Int64
}

func newSettles(t *testing.T, redisURL string, answers bool) *settles {
	t.Helper()
	u, err := url.Parse(redisURL)
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	w := &settles{to: u.Host, answers: answers}
	u.Host = l.Addr().String()
	w.url = u.String()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var all sync.WaitGroup
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { w.serve(ctx, in) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		all.Wait()
	})
	return w
}

// serve passes on commands and answers in turns: the proxy sends one command at a time on a connection.
func (w *settles) serve(ctx context.Context, in net.Conn) {
	defer func() { _ = in.Close() }()
	out, err := new(net.Dialer).DialContext(ctx, "tcp", w.to)
	if err != nil {
		return
	}
	defer func() { _ = out.Close() }()
	defer context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })()
	var losing atomic.Bool
	var answers sync.WaitGroup
	defer answers.Wait()
	answers.Go(func() {
		defer func() { _ = in.Close() }()
		pass(in, out, func([]byte) bool { return !losing.Load() })
	})
	pass(out, in, func(b []byte) bool {
		if isSettle(b) && w.seen.Add(1)%3 == 0 {
			w.lost.Add(1)
			losing.Store(true)
		}
		return !losing.Load() || w.answers
	})
	_ = out.Close()
}

// pass copies what it is told to, until the first piece that is lost or an end.
func pass(to, from net.Conn, keep func([]byte) bool) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if err != nil || !keep(b[:n]) {
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}
