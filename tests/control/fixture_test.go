package control_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/projections/control"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/secret"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

const (
	adminToken = "root-token-of-the-tests"
	partitions = 4
	patience   = time.Minute
)

// newDatabase makes an empty database and returns its URL. It is dropped after the test: PostgreSQL would write all of them to the disk
// when it stops, and has 20 seconds for it.
func newDatabase(t *testing.T) string {
	t.Helper()
	name := "t" + strings.ToLower(rand.Text())
	asServer(t.Context(), t, "CREATE DATABASE "+name)
	t.Cleanup(func() { asServer(context.WithoutCancel(t.Context()), t, "DROP DATABASE "+name+" WITH (FORCE)") })
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatalf("reading the URL: %v", err)
	}
	u.Path = "/" + name
	return u.String()
}

func asServer(ctx context.Context, t *testing.T, sql string) {
	t.Helper()
	conn, err := pgx.Connect(ctx, server.URL())
	if err != nil {
		t.Fatalf("connecting to PostgreSQL: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// newCluster starts a broker with the topics that control writes.
func newCluster(t *testing.T) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions,
		topics.Policies.Name, topics.PolicyHistory.Name, topics.Keys.Name, topics.Audit.Name, topics.Ticks.Name,
		topics.Prices.Name, topics.Costs.Name))
	if err != nil {
		t.Fatalf("starting a broker: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

func brokers(c *kfake.Cluster) string { return strings.Join(c.ListenAddrs(), ",") }

// system is what a test works with.
type system struct {
	t       *testing.T
	cfg     control.Config
	handler http.Handler
}

// settings returns a Config of a role of its own over the stores.
func settings(t *testing.T, postgresURL, kafka string) control.Config {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() }) // the role closes it first
	return control.Config{
		Listener: l, AdminToken: adminToken, SecretKey: testSecret, PostgresURL: postgresURL,
		ClickHouseURL: "http://default@127.0.0.1:1/default", Kafka: broker.Config{Brokers: kafka},
		ReconcileInterval: 200 * time.Millisecond, TickInterval: 50 * time.Millisecond,
	}
}

var testSecret = secret.NewKey()

// idle makes a role that only answers: nothing is relayed.
func idle(t *testing.T, cfg control.Config) *system {
	t.Helper()
	s, err := control.New(t.Context(), cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatalf("making the role: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the role: %v", err)
		}
	})
	return &system{t: t, cfg: cfg, handler: s.Handler()}
}

// running starts a whole role; stop ends it and waits.
func running(t *testing.T, cfg control.Config) (s *system, stop func()) {
	t.Helper()
	return measured(t, cfg, nil)
}

// measured is running with metrics; reg may be nil.
func measured(t *testing.T, cfg control.Config, reg prometheus.Registerer) (s *system, stop func()) {
	t.Helper()
	role, err := control.New(t.Context(), cfg, slog.New(slog.NewTextHandler(testWriter{t}, nil)), reg)
	if err != nil {
		t.Fatalf("making the role: %v", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- role.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("running the role: %v", err)
		}
	}
	t.Cleanup(stop)
	return &system{t: t, cfg: cfg, handler: role.Handler()}, stop
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

// as returns the system as another caller sees it.
type client struct {
	s      *system
	token  string
	header http.Header
}

func (s *system) root() client             { return client{s: s, token: adminToken} }
func (s *system) with(token string) client { return client{s: s, token: token} }

func (c client) set(name, value string) client {
	h := c.header.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set(name, value)
	c.header = h
	return c
}

// do makes a call and checks the answer against the description of the API. body is text, or anything that becomes JSON.
func (c client) do(method, path string, body any) answer {
	t := c.s.t
	t.Helper()
	var b []byte
	switch body := body.(type) {
	case nil:
	case string:
		b = []byte(body)
	default:
		var err error
		if b, err = json.Marshal(body); err != nil {
			t.Fatalf("encoding a body: %v", err)
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), method, path, bytes.NewReader(b))
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	if len(b) > 0 {
		r.Header.Set("Content-Type", "application/json")
	}
	for name, values := range c.header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	c.s.handler.ServeHTTP(w, r)
	a := answer{status: w.Code, header: w.Header(), raw: w.Body.String()}
	checkAgainstDescription(t, method, path, b, r.Header, a)
	if a.raw != "" {
		if err := json.Unmarshal([]byte(a.raw), &a.body); err != nil {
			t.Fatalf("%s %s: the answer is no JSON object: %v: %s", method, path, err, a.raw)
		}
	}
	return a
}

var description = func() routers.Router {
	b, err := control.OpenAPI()
	if err != nil {
		panic(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(b)
	if err != nil {
		panic(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		panic(err)
	}
	doc.Servers = nil
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		panic(err)
	}
	return router
}()

// checkAgainstDescription validates the answer, and the request where it was accepted.
func checkAgainstDescription(t *testing.T, method, path string, body []byte, header http.Header, a answer) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, bytes.NewReader(body))
	r.Header = header
	route, vars, err := description.FindRoute(r)
	if err != nil {
		if a.status < 400 && method != http.MethodHead {
			t.Errorf("%s %s: answered %d and is not described: %v", method, path, a.status, err)
		}
		return
	}
	options := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true}
	in := &openapi3filter.RequestValidationInput{Request: r, PathParams: vars, Route: route, Options: options}
	if a.status < 400 {
		if err := openapi3filter.ValidateRequest(t.Context(), in); err != nil {
			t.Errorf("%s %s: was accepted against the description: %v", method, path, err)
		}
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: a.status, Header: a.header, Body: io.NopCloser(strings.NewReader(a.raw)), Options: options,
	}
	if err := openapi3filter.ValidateResponse(t.Context(), out); err != nil {
		t.Errorf("%s %s: the answer %d is not as described: %v\n%s", method, path, a.status, err, a.raw)
	}
}

// want fails the test unless the answer has the status.
func (a answer) want(t *testing.T, status int) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("status: got %d, want %d: %s", a.status, status, a.raw)
	}
	return a
}

func (a answer) text(name string) string {
	s, _ := a.body[name].(string)
	return s
}

func (a answer) number(name string) int {
	n, _ := a.body[name].(float64)
	return int(n)
}

// fields returns the names of the fields that the problem complains of.
func (a answer) fields() []string {
	var names []string
	list, _ := a.body["errors"].([]any)
	for _, e := range list {
		if m, ok := e.(map[string]any); ok {
			name, _ := m["field"].(string)
			names = append(names, name)
		}
	}
	return names
}

// workspace makes a workspace and returns its path.
func (s *system) workspace(name string) string {
	s.t.Helper()
	return "/v1/workspaces/" + s.root().do(http.MethodPost, "/v1/workspaces", map[string]any{"name": name}).want(s.t, http.StatusCreated).text("id")
}

// key makes a key with the given fields and returns its id and secret.
func (s *system) key(ws string, fields map[string]any) (id, secret string) {
	s.t.Helper()
	if fields["name"] == nil {
		fields["name"] = "test"
	}
	a := s.root().do(http.MethodPost, ws+"/keys", fields).want(s.t, http.StatusCreated)
	return a.text("id"), a.text("key")
}

var anyRoute = map[string]any{"provider": "openai", "base_url": "http://upstream.test"}

var anyLimit = map[string]any{"limit": 5, "window": "1m"}

var anyBudget = map[string]any{"usd": "10.00"}

// log follows topics and remembers every event of them.
type log struct {
	t      *testing.T
	client *kgo.Client
	all    []record
}

type record struct {
	topic, key string
	partition  int32
	event      *rateguardv1.Event
	value      []byte
}

func follow(t *testing.T, kafka string, names ...string) *log {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(kafka), kgo.ConsumeTopics(names...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatalf("opening a consumer: %v", err)
	}
	t.Cleanup(client.Close)
	return &log{t: t, client: client}
}

// until reads until the records satisfy the condition.
func (l *log) until(what string, ok func([]record) bool) []record {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	for !ok(l.all) {
		fetches := l.client.PollFetches(ctx)
		if ctx.Err() != nil {
			l.t.Fatalf("waiting for %s: %d records came", what, len(l.all))
		}
		fetches.EachRecord(func(r *kgo.Record) {
			rec := record{topic: r.Topic, key: string(r.Key), partition: r.Partition, value: r.Value}
			if len(r.Value) > 0 {
				e, err := envelope.Decode(r.Value)
				if err != nil {
					l.t.Errorf("reading %s: %v", r.Topic, err)
				}
				rec.event = e
			}
			l.all = append(l.all, rec)
		})
	}
	return l.all
}

// await waits until the condition is true.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
