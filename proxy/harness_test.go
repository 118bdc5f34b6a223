package proxy_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/proxy"
	"github.com/rateguard/rateguard/proxy/emit"
	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/policy"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/secret"
	"github.com/rateguard/rateguard/topics"
)

const (
	goodKey   = "rg_good"
	workspace = "ws_test"
	// upstreamSecret is the credential of every route; no client may ever see it.
	upstreamSecret = "sk-upstream-secret"
)

// frame is one append, decoded.
type frame struct {
	kind   string
	events []*rateguardv1.Event
	record []spool.Record
}

// fakeLog keeps the frames that a spool would. It can refuse, as a full one does.
type fakeLog struct {
	mu     sync.Mutex // guards what follows
	frames []frame
	refuse error
	// onEnd is called before an end is kept.
	onEnd func()
}

// openedIn is the generation in which every request is opened.
const openedIn = 7

func (l *fakeLog) AppendOpen(r ...spool.Record) (spool.Generation, error) {
	return openedIn, l.add("open", r)
}
func (l *fakeLog) Append(r ...spool.Record) error { return l.add("plain", r) }
func (l *fakeLog) AppendEnd(g spool.Generation, r ...spool.Record) error {
	if g != openedIn {
		return fmt.Errorf("end of generation %d", g)
	}
	l.mu.Lock()
	hook := l.onEnd
	l.mu.Unlock()
	if hook != nil {
		hook()
	}
	return l.add("end", r)
}

func (l *fakeLog) add(kind string, records []spool.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil && kind == "open" {
		return l.refuse
	}
	f := frame{kind: kind, record: records}
	for _, r := range records {
		e, err := envelope.Decode(r.Value)
		if err != nil {
			return err
		}
		if r.Key != workspace {
			return fmt.Errorf("key is %q", r.Key)
		}
		f.events = append(f.events, e)
	}
	l.frames = append(l.frames, f)
	return nil
}

func (l *fakeLog) all() []frame {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]frame(nil), l.frames...)
}

// row waits for n rows and returns the last.
func (l *fakeLog) rows(t testing.TB, n int) []*rateguardv1.RequestRecorded {
	t.Helper()
	var rows []*rateguardv1.RequestRecorded
	eventually(t, func() bool {
		rows = nil
		for _, f := range l.all() {
			for _, e := range f.events {
				if r := e.GetRequestRecorded(); r != nil {
					rows = append(rows, r)
				}
			}
		}
		return len(rows) >= n
	}, "rows of requests")
	return rows
}

func (l *fakeLog) row(t testing.TB) *rateguardv1.RequestRecorded {
	t.Helper()
	rows := l.rows(t, 1)
	if len(rows) != 1 {
		t.Fatalf("got %d rows, want 1", len(rows))
	}
	return rows[0]
}

// outcome returns the outcome of the only end, and its kind of event.
func (l *fakeLog) outcome(t testing.TB) (*rateguardv1.Outcome, string) {
	t.Helper()
	l.rows(t, 1)
	var found *rateguardv1.Outcome
	kind := ""
	for _, f := range l.all() {
		for _, e := range f.events {
			var o *rateguardv1.Outcome
			switch b := e.GetBody().(type) {
			case *rateguardv1.Event_CostSettled:
				o, kind = b.CostSettled.GetOutcome(), "settled"
			case *rateguardv1.Event_ReservationVoided:
				o, kind = b.ReservationVoided.GetOutcome(), "voided"
			case *rateguardv1.Event_ReservationExpired:
				o, kind = b.ReservationExpired.GetOutcome(), "expired"
			}
			if o != nil && found != nil {
				t.Fatal("a second end")
			}
			if o != nil {
				found = o
			}
		}
	}
	if found == nil {
		t.Fatal("no end in the log")
	}
	return found, kind
}

func eventually(t testing.TB, done func() bool, what string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-tick.C
	}
}

// rig is a proxy in front of an upstream, without spool and Kafka.
type rig struct {
	url    string
	log    *fakeLog
	view   *policy.View
	policy *rateguardv1.WorkspacePolicy
	server *httptest.Server
	// left hears of clients whose leaving the proxy has noticed; one that nobody waits for is dropped.
	left chan struct{}
}

type rigConfig struct {
	upstream string // base URL of all routes
	settings *rateguardv1.WorkspaceSettings
	timeout  time.Duration
	idle     time.Duration
	drain    time.Duration
	maxBody  int64
	maxReply int64
	buffer   int
	perCall  *int64
	null     bool // keep no events
	// redis and what the workspace allows.
	redis   string
	limits  []*rateguardv1.Limit
	budgets []*rateguardv1.Budget
	gate    *epoch.Gate
	// producer is who reserves.
	producer string
	version  uint64 // of the policy, 7
	weights  map[string]int64
}

func newRig(t testing.TB, c rigConfig) *rig {
	t.Helper()
	key, err := secret.ParseKey(strings.Repeat("ab", 32))
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	r := &rig{log: new(fakeLog), view: policy.NewView(key, logger), left: make(chan struct{}, 1)}
	p := &rateguardv1.WorkspacePolicy{WorkspaceId: workspace, Version: cmp.Or(c.version, 7), Settings: c.settings, Limits: c.limits, Budgets: c.budgets}
	for _, provider := range []string{"openai", "anthropic", "gemini", "http"} {
		route := &rateguardv1.Route{
			Id: provider, Provider: provider, BaseUrl: c.upstream, TimeoutUs: c.timeout.Microseconds(), IdleTimeoutUs: c.idle.Microseconds(),
			CredentialSealed: secret.Seal(key, workspace, provider, []byte(upstreamSecret)), Weights: c.weights,
		}
		if provider == "http" {
			route.PerRequestNanoUsd = c.perCall
		}
		p.Routes = append(p.Routes, route)
	}
	r.policy = p
	apply(t, r.view, topics.Policies.Name, workspace, &rateguardv1.Event{Body: &rateguardv1.Event_WorkspacePolicy{WorkspacePolicy: p}})
	r.addKey(t, goodKey, &rateguardv1.KeyRecord{KeyId: "key_good"})
	if c.maxBody == 0 {
		c.maxBody = 32 << 20
	}
	var log emit.Log = r.log
	if c.null {
		log = nullLog{}
	}
	cfg := proxy.HandlerConfig{
		View: r.view, Log: log, MaxBody: c.maxBody, MaxResponse: c.maxReply, Drain: c.drain, Slog: logger, Buffer: c.buffer,
		Gate: c.gate, Producer: cmp.Or(c.producer, "proxy-1"),
	}
	if c.redis != "" {
		cfg.Store = openStore(t, c.redis)
	}
	handler, beside := proxy.NewHandler(cfg)
	for _, run := range beside {
		background(t, run)
	}
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		defer context.AfterFunc(req.Context(), func() {
			select {
			case r.left <- struct{}{}:
			default:
			}
		})()
		handler.ServeHTTP(w, req)
	}))
	t.Cleanup(r.server.Close)
	r.url = r.server.URL
	return r
}

// setBudgets publishes the next version of the policy, with other budgets.
func (r *rig) setBudgets(t testing.TB, budgets ...*rateguardv1.Budget) {
	t.Helper()
	r.policy = proto.CloneOf(r.policy)
	r.policy.Version, r.policy.Budgets = r.policy.GetVersion()+1, budgets
	apply(t, r.view, topics.Policies.Name, workspace, &rateguardv1.Event{Body: &rateguardv1.Event_WorkspacePolicy{WorkspacePolicy: r.policy}})
}

func (r *rig) addKey(t testing.TB, text string, k *rateguardv1.KeyRecord) {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	k.Sha256, k.WorkspaceId, k.Version = sum[:], workspace, 1
	if k.KeyId == "" {
		k.KeyId = "key_" + text
	}
	apply(t, r.view, topics.Keys.Name, k.GetKeyId(), &rateguardv1.Event{Body: &rateguardv1.Event_KeyRecord{KeyRecord: k}})
}

func apply(t testing.TB, v *policy.View, topic, key string, e *rateguardv1.Event) {
	t.Helper()
	b, err := envelope.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Apply(topic, key, b, 1); err != nil {
		t.Fatal(err)
	}
}

// reply is what a client got.
type reply struct {
	status int
	header http.Header
	body   string
	// err is how reading the body ended, nil for a clean end.
	err error
}

func (r *rig) post(t testing.TB, path, body string, headers ...string) reply {
	t.Helper()
	return r.send(t, http.MethodPost, path, strings.NewReader(body), headers...)
}

func (r *rig) send(t testing.TB, method, path string, body io.Reader, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+goodKey)
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	tr := &http.Transport{DisableCompression: true}
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatalf("calling the proxy: %v", err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(b), err}
}

// upstreamFunc starts an upstream that is an ordinary server.
func upstreamFunc(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// rawUpstream starts an upstream that does what it likes with the connection once a request's head has come.
func rawUpstream(t testing.TB, act func(c net.Conn, head string)) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				br := bufio.NewReader(c)
				var head strings.Builder
				for {
					line, err := br.ReadString('\n')
					if err != nil {
						return
					}
					if line == "\r\n" {
						break
					}
					head.WriteString(line)
				}
				act(c, head.String())
			})
		}
	})
	return "http://" + l.Addr().String()
}
