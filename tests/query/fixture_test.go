package query_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	store "github.com/rateguard/rateguard/projections/clickhouse"
	"github.com/rateguard/rateguard/projections/control"
	"github.com/rateguard/rateguard/schemas/secret"
	"github.com/rateguard/rateguard/topics/broker"
)

const adminToken = "root-token-of-the-tests"

// rig is an API over databases of its own.
type rig struct {
	t       *testing.T
	sql     *pgx.Conn
	store   driver.Conn
	handler http.Handler
	// mine and theirs are the ids of two workspaces.
	mine, theirs string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigWith(t, nowhere)
}

// nowhere is where no broker answers.
const nowhere = "127.0.0.1:1"

// newRigWith makes a rig whose log is at the brokers.
func newRigWith(t *testing.T, kafka string) *rig {
	t.Helper()
	r := newRigOn(t, kafka, func(name string) string { return withPath(t, analytics.URL(), name) })
	if err := r.store.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Fatalf("reaching ClickHouse: %v", err)
	}
	r.create()
	return r
}

// create makes the tables of ClickHouse.
func (r *rig) create() {
	r.t.Helper()
	for _, table := range []*store.Table{store.Requests(r.store), store.Corrections(r.store)} {
		if err := table.Create(r.t.Context(), "g1"); err != nil {
			r.t.Fatalf("creating table %s: %v", table.Name(), err)
		}
	}
}

// correct inserts corrections of requests; the last of a request says its whole cost where they are apart.
func (r *rig) correct(apart bool, rows ...row) {
	r.t.Helper()
	columns := []string{"workspace", "time", "request_id", "reservation_id", "revision", "apart", "key_id", "route", "provider", "model", "endpoint", "cost_nano", "delta_nano", "_generation"}
	var values [][]any
	for _, x := range rows {
		values = append(values, []any{
			x.workspace, x.at, x.id, x.id + "/1", int32(2), apart, x.key, x.route, "openai", x.model, x.endpoint, x.cost, *x.cost, "g1",
		})
	}
	if err := store.Corrections(r.store).Insert(r.t.Context(), columns, values, rand.Text()); err != nil {
		r.t.Fatalf("inserting corrections: %v", err)
	}
}

// newRigOn makes a rig whose ClickHouse is at the URL that clickhouseURL makes of a database's name.
func newRigOn(t *testing.T, kafka string, clickhouseURL func(name string) string) *rig {
	t.Helper()
	name := "q" + strings.ToLower(rand.Text())
	admin, err := pgx.Connect(t.Context(), sqlServer.URL())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	if err := admin.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	root, err := store.Open(analytics.URL())
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	if err := root.Close(); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t}
	if r.store, err = store.Open(clickhouseURL(name)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.store.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	role, err := control.New(t.Context(), control.Config{
		Listener: l, AdminToken: adminToken, SecretKey: secret.NewKey(), PostgresURL: withPath(t, sqlServer.URL(), name),
		ClickHouseURL: clickhouseURL(name), Kafka: broker.Config{Brokers: kafka},
	}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatalf("making the role: %v", err)
	}
	t.Cleanup(func() { _ = role.Close() })
	if r.sql, err = pgx.Connect(t.Context(), withPath(t, sqlServer.URL(), name)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.sql.Close(context.WithoutCancel(t.Context())) })
	r.handler = role.Handler()
	r.mine, r.theirs = r.workspace("mine"), r.workspace("theirs")
	return r
}

func withPath(t *testing.T, text, path string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + path
	return u.String()
}

func (r *rig) workspace(name string) string {
	r.t.Helper()
	var w struct {
		ID string `json:"id"`
	}
	r.call(http.MethodPost, "/v1/workspaces", adminToken, strings.NewReader(`{"name":"`+name+`"}`), http.StatusCreated, &w)
	return w.ID
}

// row is what a test inserts.
type row struct {
	workspace, id, key, route, model, endpoint string
	at                                         time.Time
	status                                     int
	denied                                     bool
	input, cached, output                      int64
	cost                                       *int64
	latency                                    uint32
	reservations                               []string
	checks                                     string
}

// idAt returns an id that carries the time of its request.
func idAt(at time.Time) string {
	id := uuid.Must(uuid.NewV7())
	ms := at.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (8 * (5 - i)))
	}
	return id.String()
}

// newRow returns a forwarded request of a workspace at a time.
func newRow(ws string, at time.Time) row {
	cost := int64(0)
	return row{
		workspace: ws, id: idAt(at), key: "key_a", route: "openai", model: "gpt-4o", endpoint: "/v1/chat/completions", at: at,
		status: 200, input: 10, output: 5, cost: &cost, latency: 1000, checks: "[]",
	}
}

func (r *rig) insert(rows ...row) {
	r.t.Helper()
	columns := []string{
		"workspace", "time", "id", "key_id", "route", "provider", "model", "endpoint", "method", "status", "decision",
		"input_tokens", "cached_tokens", "output_tokens", "cost_nano", "latency_us", "reservation_ids", "checks", "policy_version", "_generation", "_offset",
	}
	var values [][]any
	for i, x := range rows {
		decision := "forwarded"
		if x.denied {
			decision = "denied"
		}
		if x.reservations == nil {
			x.reservations = []string{}
		}
		values = append(values, []any{
			x.workspace, x.at, x.id, x.key, x.route, "openai", x.model, x.endpoint, "POST", uint16(x.status), decision,
			x.input, x.cached, x.output, x.cost, x.latency, x.reservations, x.checks, uint64(7), "g1", int64(i),
		})
	}
	if err := store.Requests(r.store).Insert(r.t.Context(), columns, values, rand.Text()); err != nil {
		r.t.Fatalf("inserting rows: %v", err)
	}
}

// progress sets what the projection last said of itself.
func (r *rig) progress(lag int, asOf, observed time.Time) {
	r.t.Helper()
	const statement = `
INSERT INTO projection_generations (projection, generation, reason) VALUES ('requests', 'g1', 'test'), ('corrections', 'g1', 'test') ON CONFLICT DO NOTHING;
DELETE FROM projection_checkpoints`
	if _, err := r.sql.Exec(r.t.Context(), statement); err != nil {
		r.t.Fatal(err)
	}
	_, err := r.sql.Exec(r.t.Context(), `INSERT INTO projection_checkpoints (projection, generation, topic, topic_id, partition, next_offset, end_offset, as_of, observed_at)
SELECT projection, generation, 'topic', $1, 0, 10, $2, $3, $4 FROM projection_generations`, uuid.New(), 10+lag, asOf, observed)
	if err != nil {
		r.t.Fatal(err)
	}
}

var description = func() *openapi3.T {
	b, err := control.OpenAPI()
	if err != nil {
		panic(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(b)
	if err != nil {
		panic(err)
	}
	doc.Servers = nil
	return doc
}()

// call makes a call, checks status and description, and decodes the answer.
func (r *rig) call(method, path, token string, body io.Reader, status int, out any) http.Header {
	t := r.t
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, path, body)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, req)
	if w.Code != status {
		t.Fatalf("%s %s: got %d, want %d: %s", method, path, w.Code, status, w.Body)
	}
	router, err := gorillamux.NewRouter(description)
	if err != nil {
		t.Fatal(err)
	}
	route, vars, err := router.FindRoute(req)
	if err != nil {
		t.Fatalf("%s %s is not described: %v", method, path, err)
	}
	options := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true}
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, PathParams: vars, Route: route, Options: options},
		Status:                 w.Code, Header: w.Header(), Body: io.NopCloser(strings.NewReader(w.Body.String())), Options: options,
	}
	if err := openapi3filter.ValidateResponse(t.Context(), in); err != nil {
		t.Errorf("%s %s: the answer is not as described: %v\n%s", method, path, err, w.Body)
	}
	if out != nil {
		if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	return w.Header()
}

// get asks as root for something of a workspace.
func (r *rig) get(ws, path string, status int, out any) {
	r.t.Helper()
	r.call(http.MethodGet, "/v1/workspaces/"+ws+path, adminToken, http.NoBody, status, out)
}

// stamp writes a time into a query string.
func stamp(t time.Time) string { return url.QueryEscape(t.UTC().Format(time.RFC3339Nano)) }

func between(from, to time.Time) string { return fmt.Sprintf("from=%s&to=%s", stamp(from), stamp(to)) }
