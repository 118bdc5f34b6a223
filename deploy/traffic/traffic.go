// Package traffic drives realistic mixed traffic through a proxy: what the demo shows and what
// soak tests send. It knows only the proxy's outside: URLs, dialects and headers.
package traffic

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rateguard/rateguard/schemas/money"
)

// Config says what traffic is sent where.
type Config struct {
	// URL of the proxy and Key of a workspace whose routes are openai, anthropic, gemini and http.
	URL, Key string
	// Rate in requests a second, whatever the answers do; must be positive.
	Rate float64
	// Duration of the traffic; 0 means until the context ends.
	Duration time.Duration
	// Seed of the mix.
	Seed uint64
}

// maxRunning bounds the requests that run at once; more are counted as skipped.
const maxRunning = 1024

// Traffic is one run.
type Traffic struct {
	config Config
	client *http.Client
	kinds  []kind
	random *rand.Rand // used by Run's goroutine alone

	mu    sync.Mutex // guards what follows
	begin time.Time
	stats []stats // by kind
	run   int64
	skip  int64
	last  string
}

// stats of one kind of call.
type stats struct {
	sent, ok, refused, failed int64
	latencies                 []time.Duration // the last keepLatencies
	cost                      money.Nano
}

// keepLatencies bounds the memory of quantiles.
const keepLatencies = 2048

// New returns traffic that has not begun.
func New(c Config) *Traffic {
	kinds := mix()
	return &Traffic{
		config: c, kinds: kinds, stats: make([]stats, len(kinds)), begin: time.Now(),
		random: rand.New(rand.NewPCG(c.Seed, 0x5eed)), //nolint:gosec // a mix of demo requests needs no secret randomness
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: maxRunning, IdleConnTimeout: time.Minute}, Timeout: 2 * time.Minute},
	}
}

// Run sends until ctx ends or the duration is over, and returns when the last answer is read.
// Requests that run when ctx ends are let finish.
func (t *Traffic) Run(ctx context.Context) {
	t.mu.Lock()
	t.begin = time.Now()
	t.mu.Unlock()
	requests := context.WithoutCancel(ctx)
	if t.config.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.config.Duration)
		defer cancel()
	}
	var wg sync.WaitGroup
	defer t.client.CloseIdleConnections()
	defer wg.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; ; i++ {
		due := t.begin.Add(time.Duration(float64(i) / t.config.Rate * float64(time.Second)))
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		which := t.choose()
		if !t.start(which) {
			continue
		}
		body, path := t.kinds[which].make(t.random)
		wg.Go(func() { t.one(requests, which, path, body) })
	}
}

func (t *Traffic) choose() int {
	n := t.random.IntN(totalWeight(t.kinds))
	for i, k := range t.kinds {
		if n -= k.weight; n < 0 {
			return i
		}
	}
	return 0
}

func (t *Traffic) start(which int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.run >= maxRunning {
		t.skip++
		return false
	}
	t.run++
	t.stats[which].sent++
	return true
}

// one sends a request and reads its answer to the end.
func (t *Traffic) one(ctx context.Context, which int, path, body string) {
	began := time.Now()
	status, header, err := t.send(ctx, t.kinds[which], path, body)
	took := time.Since(began)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.run--
	s := &t.stats[which]
	switch {
	case err != nil:
		s.failed++
		t.last = err.Error()
	case status < http.StatusBadRequest:
		s.ok++
	case header.Get("X-Rateguard-Error") != "":
		s.refused++
		t.last = fmt.Sprintf("status %d: %s", status, header.Get("X-Rateguard-Error"))
	default:
		s.failed++
		t.last = fmt.Sprintf("status %d of the upstream", status)
	}
	if len(s.latencies) < keepLatencies {
		s.latencies = append(s.latencies, took)
	} else {
		s.latencies[s.sent%keepLatencies] = took
	}
	if usd := header.Get("X-Rateguard-Cost-Usd"); usd != "" {
		cost, err := money.ParseUSD(usd)
		if err == nil {
			cost, err = money.Add(s.cost, cost)
		}
		if err != nil {
			t.last = err.Error()
			return
		}
		s.cost = cost
	}
}

func (t *Traffic) send(ctx context.Context, k kind, path, body string) (int, http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(t.config.URL, "/")+path, strings.NewReader(body))
	if err != nil {
		return 0, http.Header{}, fmt.Errorf("building a request: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "rateguard-demo/1")
	switch k.dialect {
	case "anthropic":
		r.Header.Set("X-Api-Key", t.config.Key)
		r.Header.Set("Anthropic-Version", "2023-06-01")
	case "gemini":
		r.Header.Set("X-Goog-Api-Key", t.config.Key)
	default:
		r.Header.Set("Authorization", "Bearer "+t.config.Key)
	}
	if k.fault != "" {
		r.Header.Set("X-Mock-Fault", k.fault)
	}
	res, err := t.client.Do(r)
	if err != nil {
		return 0, http.Header{}, fmt.Errorf("sending: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return res.StatusCode, res.Header, fmt.Errorf("reading the answer: %w", err)
	}
	return res.StatusCode, res.Header, nil
}

// Row is what became of one kind of call.
type Row struct {
	Name    string        `json:"call"`
	Sent    int64         `json:"sent"`
	OK      int64         `json:"ok"`
	Refused int64         `json:"refused"`
	Failed  int64         `json:"failed"`
	P50     time.Duration `json:"p50_ns"`
	P95     time.Duration `json:"p95_ns"`
	// Cost of the answers that name it: streams end after their headers, so theirs is not in it.
	Cost money.Nano `json:"cost_usd"`
}

// Summary is what became of all.
type Summary struct {
	Elapsed time.Duration `json:"elapsed_ns"`
	Row
	Running   int64  `json:"running"`
	Skipped   int64  `json:"skipped"`
	LastError string `json:"last_error,omitempty"`
	Rows      []Row  `json:"rows"`
}

// Summary may be called at any time.
func (t *Traffic) Summary() Summary {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Summary{Elapsed: time.Since(t.begin), Running: t.run, Skipped: t.skip, LastError: t.last, Row: Row{Name: "all"}}
	var all []time.Duration
	for i, st := range t.stats {
		r := Row{Name: t.kinds[i].name, Sent: st.sent, OK: st.ok, Refused: st.refused, Failed: st.failed, Cost: st.cost}
		r.P50, r.P95 = quantiles(st.latencies)
		s.Rows = append(s.Rows, r)
		s.Sent, s.OK, s.Refused, s.Failed = s.Sent+r.Sent, s.OK+r.OK, s.Refused+r.Refused, s.Failed+r.Failed
		if cost, err := money.Add(s.Cost, r.Cost); err == nil { // else it stays at the largest that fits
			s.Cost = cost
		}
		all = append(all, st.latencies...)
	}
	s.P50, s.P95 = quantiles(all)
	return s
}

func quantiles(d []time.Duration) (p50, p95 time.Duration) {
	if len(d) == 0 {
		return 0, 0
	}
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2], d[len(d)*95/100]
}
