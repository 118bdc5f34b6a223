package query_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"

	store "github.com/rateguard/rateguard/projections/clickhouse"
	"github.com/rateguard/rateguard/projections/requests"
	"github.com/rateguard/rateguard/projections/runner"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

type explanation struct {
	Why     []string         `json:"why"`
	Checks  []map[string]any `json:"checks"`
	Binding *string          `json:"binding"`
	UsedBy  *struct {
		By         string    `json:"by"`
		From       time.Time `json:"from"`
		To         time.Time `json:"to"`
		Requests   int       `json:"requests"`
		Units      int       `json:"units"`
		Denied     int       `json:"denied"`
		Data       []user    `json:"data"`
		Others     *user     `json:"others"`
		Pattern    string    `json:"pattern"`
		Incomplete bool      `json:"incomplete"`
		Peak       *struct{ Requests, Units int }
	} `json:"used_by"`
}

type user struct {
	Key, Route, Model              string
	Users, Requests, Units, Denied int
}

// project inserts the rows that the projection makes of events.
func (r *rig) project(events ...*rateguardv1.Event) {
	r.t.Helper()
	target, ok := requests.New(store.Requests(r.store)).Target.(runner.Ranged)
	if !ok {
		r.t.Fatal("the table takes no blocks")
	}
	b := runner.Batch{Generation: "g1"}
	for i, e := range events {
		if err := requests.Check(e); err != nil {
			r.t.Fatalf("event %d: %v", i, err)
		}
		b.Records = append(b.Records, runner.Record{Workspace: e.GetWorkspaceId(), Offset: int64(i), Event: e})
	}
	if err := target.Insert(r.t.Context(), target.Form(b), rand.Text()); err != nil {
		r.t.Fatalf("inserting: %v", err)
	}
}

// decision is a request of a workspace that one limit decided.
type decision struct {
	workspace, key, model string
	// at is by Redis' clock; the proxy's is 12 ms behind.
	at             time.Time
	check          *rateguardv1.Check
	denied, failed bool
	tokens         int64
}

// record returns the event and the id of the request.
func (d decision) record() (*rateguardv1.Event, string) {
	id := idAt(d.at)
	began := d.at.Add(-15 * time.Millisecond).UnixMicro()
	k := d.check
	k.DecidedAtUnixUs, k.DecidedBy, k.ClockOffsetUs, k.Kind = d.at.UnixMicro(), "redis", -12_000, "limit"
	row := &rateguardv1.RequestRecorded{
		RequestId: id, KeyId: d.key, Route: "openai", Model: d.model, Endpoint: "e", Decision: rateguardv1.Decision_DECISION_FORWARDED, Status: 200,
		Context: &rateguardv1.RequestContext{Method: http.MethodPost}, Usage: &rateguardv1.Usage{OutputTokens: d.tokens}, CostNanoUsd: new(int64),
		PolicyVersion: 7, Checks: []*rateguardv1.Check{k}, StartedAtUnixUs: began,
	}
	if d.tokens > 0 {
		row.CostNanoUsd = nil // the model has no price
	}
	if d.denied {
		k.Denied = true
		row.Decision, row.Status, row.ErrorCode = rateguardv1.Decision_DECISION_DENIED, 429, "rate_limit_exceeded"
	}
	if d.failed {
		row.Decision, row.Status, row.ErrorCode = rateguardv1.Decision_DECISION_DENIED, 503, "store_unavailable"
	}
	return &rateguardv1.Event{
		Id: id + "/row", WorkspaceId: d.workspace, OccurredAtUnixUs: began,
		Body: &rateguardv1.Event_RequestRecorded{RequestRecorded: row},
	}, id
}

func flood(ws, key, limit string, at time.Time, count int64) *rateguardv1.Event {
	return &rateguardv1.Event{Id: idAt(at), WorkspaceId: ws, OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_DenialsAggregated{
		DenialsAggregated: &rateguardv1.DenialsAggregated{
			KeyId: key, LimitId: limit, ErrorCode: "rate_limit_exceeded", Status: 429, WindowStartUnixUs: at.UnixMicro(), WindowUs: 1e6, Count: count,
		},
	}}
}

// Every field of the event's Check must come out: a field that the projection or the answer forgets is caught here.
func TestExplainShowsEveryFieldOfACheck(t *testing.T) {
	r := newRig(t)
	k := &rateguardv1.Check{}
	fields := k.ProtoReflect().Descriptor().Fields()
	want := map[string]any{"decided_at": noon.Format(time.RFC3339), "period_start": noon.Add(-time.Hour).Format(time.RFC3339)}
	d := decision{workspace: r.mine, key: "key_a", at: noon, check: k}
	e, id := d.record()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch name := string(f.Name()); {
		case name == "decided_at_unix_us":
			k.DecidedAtUnixUs = noon.UnixMicro()
		case name == "period_start_unix_us":
			k.PeriodStartUnixUs = noon.Add(-time.Hour).UnixMicro()
		case f.Kind() == protoreflect.StringKind:
			k.ProtoReflect().Set(f, protoreflect.ValueOfString("text of "+name))
			want[name] = "text of " + name
		case f.Kind() == protoreflect.BoolKind:
			k.ProtoReflect().Set(f, protoreflect.ValueOfBool(true))
			want[name] = true
		case f.Kind() == protoreflect.Int64Kind:
			k.ProtoReflect().Set(f, protoreflect.ValueOfInt64(int64(100+i)))
			want[name] = float64(100 + i)
		default:
			t.Fatalf("field %s of a kind that this test does not know", name)
		}
	}
	r.project(e)
	var got explanation
	r.get(r.mine, "/requests/"+id+"/explain", http.StatusOK, &got)
	if diff := cmp.Diff([]map[string]any{want}, got.Checks); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}

// A limit of the workspace is shared: what counts is what other keys took from it in its window, by Redis' clock, and nothing else.
func TestExplainSaysWhoElseUsedASharedLimit(t *testing.T) {
	r := newRig(t)
	limit := func() *rateguardv1.Check {
		return &rateguardv1.Check{Id: "lim_x", Scope: "workspace", Limit: 10, Used: 10, Cost: 1, Unit: "requests", Algorithm: "sliding_window", WindowUs: 60e6}
	}
	var events []*rateguardv1.Event
	add := func(d decision) string {
		if d.workspace == "" {
			d.workspace = r.mine
		}
		if d.check == nil {
			d.check = limit()
		}
		e, id := d.record()
		events = append(events, e)
		return id
	}
	before := func(d time.Duration) time.Time { return noon.Add(-d) }
	for i := range 6 {
		add(decision{key: "key_b", at: before(time.Duration(2000+100*i) * time.Millisecond)})
	}
	for i, key := range []string{"key_a", "key_c", "key_d", "key_e", "key_f", "key_g"} {
		add(decision{key: key, at: before(time.Duration(20+i) * time.Second)})
	}
	heavy := limit()
	heavy.Cost = 3
	add(decision{key: "key_g", at: before(30 * time.Second), check: heavy})
	// What must not count: before the window, though it began in it by the proxy's clock; after it; another limit; not admitted; not sent; another tenant.
	add(decision{key: "key_z", at: before(60 * time.Second)})
	add(decision{key: "key_z", at: noon.Add(time.Microsecond)})
	other := limit()
	other.Id = "lim_xy"
	add(decision{key: "key_z", at: before(time.Second), check: other})
	add(decision{key: "key_z", at: before(time.Second), failed: true})
	add(decision{key: "key_z", at: before(time.Second), workspace: r.theirs})
	add(decision{key: "key_b", at: before(time.Second), denied: true})
	events = append(events, flood(r.mine, "key_a", "lim_x", before(3*time.Second), 40), flood(r.mine, "key_a", "lim_y", before(3*time.Second), 7))
	mine := limit()
	mine.RetryAfterUs = 799_500
	id := add(decision{key: "key_a", at: noon, check: mine, denied: true})
	r.project(events...)

	var got explanation
	r.get(r.mine, "/requests/"+id+"/explain", http.StatusOK, &got)
	want := []string{
		"Refused by limit lim_x: 10 requests per minute for the whole workspace (workspace scope). 10 of 10 were used when the request came; it asked for 1.",
		"The same limit would have admitted it 0.8 s later.",
		"In the 60 s before, it admitted 13 requests that count as 15: 6 of key key_b, 2 of key key_g, 1 of this request's key key_a, 1 of key key_c, 1 of key key_d, 2 of 2 other keys.",
		"In that time it refused 41 more requests: 1 of key key_b, 40 of this request's key key_a.",
		"Steady: at most 6 of 15 came within 6 s.",
		"Redis' clock, by which limits are decided, was 12 ms ahead of the proxy's.",
		"Decided with policy version 7.",
	}
	if diff := cmp.Diff(want, got.Why); diff != "" {
		t.Errorf("why (-want +got):\n%s", diff)
	}
	if got.Binding == nil || *got.Binding != "lim_x" || got.UsedBy == nil {
		t.Fatalf("got %+v", got)
	}
	u := got.UsedBy
	if u.By != "key" || u.Requests != 13 || u.Units != 15 || u.Denied != 41 || len(u.Data) != 5 || u.Data[1] != (user{Key: "key_g", Requests: 2, Units: 4}) ||
		u.Others == nil || *u.Others != (user{Users: 2, Requests: 2, Units: 2}) || !u.From.Equal(before(time.Minute)) || !u.To.Equal(noon) {
		t.Errorf("used by: %+v", u)
	}
}

// A limit of a key is the key's own: then its routes and models are told apart, and of tokens what counts is what was used in the end.
func TestExplainSaysWhatAKeyUsedItsOwnLimitFor(t *testing.T) {
	r := newRig(t)
	limit := func(key string) *rateguardv1.Check {
		return &rateguardv1.Check{
			Id: "tpm", Scope: "key", Subject: key, Limit: 1000, Burst: 1000, Used: 500, Remaining: 500, Cost: 300, Unit: "tokens", Algorithm: "token_bucket", WindowUs: 60e6,
		}
	}
	var events []*rateguardv1.Event
	add := func(d decision) string {
		d.workspace, d.check = r.mine, limit(d.key)
		e, id := d.record()
		events = append(events, e)
		return id
	}
	for i := range 3 {
		add(decision{key: "key_a", model: "gpt-4o", at: noon.Add(-time.Duration(i+1) * time.Second), tokens: 50})
	}
	add(decision{key: "key_a", model: "o'3 \n", at: noon.Add(-40 * time.Second), tokens: 20})
	add(decision{key: "key_a", model: "gpt-4o", at: noon.Add(-50 * time.Second)}) // voided: it gave everything back
	add(decision{key: "key_b", model: "gpt-4o", at: noon.Add(-2 * time.Second), tokens: 900})
	events = append(events, flood(r.mine, "key_b", "tpm", noon.Add(-time.Second), 9), flood(r.mine, "key_a", "tpm", noon.Add(-time.Second), 4))
	id := add(decision{key: "key_a", model: "gpt-4o", at: noon, tokens: 10})
	r.project(events...)

	var got explanation
	r.get(r.mine, "/requests/"+id+"/explain", http.StatusOK, &got)
	want := []string{
		"Admitted by limit tpm: 1000 tokens per minute for key key_a (key scope). It took 300, and 500 of 1000 remained.",
		`In the 60 s before, it admitted 170 tokens in 5 requests of this key, by route and model: 150 to openai gpt-4o, 20 to openai "o'3 \n".`,
		"In that time it refused 4 more requests of this key, by route and model: 4 of a flood, counted without a route.",
		"Burst: 150 of 170 tokens came within 2 s.",
		"Redis' clock, by which limits are decided, was 12 ms ahead of the proxy's.",
		"Decided with policy version 7.",
	}
	if diff := cmp.Diff(want, got.Why); diff != "" {
		t.Errorf("why (-want +got):\n%s", diff)
	}
	if u := got.UsedBy; u == nil || u.By != "route_model" || u.Requests != 5 || u.Units != 170 || u.Pattern != "burst" || u.Denied != 4 {
		t.Errorf("used by: %+v", u)
	}
}

// Clients choose the names of models: none can look like a part of the record.
func TestExplainOfALimitForAModelWithAnOddName(t *testing.T) {
	r := newRig(t)
	const odd = "m\"<é😀>\\\n{\"id\":\"lim_x\",\"cost\":99,\"denied\":true}"
	check := func(id, model string) *rateguardv1.Check {
		return &rateguardv1.Check{Id: id, Scope: "model", Subject: model, Limit: 10, Used: 4, Remaining: 6, Cost: 1, Unit: "requests", Algorithm: "sliding_window", WindowUs: 60e6}
	}
	one := func(id, model string, before time.Duration) (*rateguardv1.Event, string) {
		return decision{workspace: r.mine, key: "key_a", model: model, at: noon.Add(-before), check: check(id, model)}.record()
	}
	first, _ := one("lim_x", odd, 2*time.Second)
	second, _ := one("lim_x", odd, time.Second)
	plain, _ := one("lim_x", "m", time.Second)     // another model's bucket
	other, _ := one("lim_other", odd, time.Second) // another limit, whose subject only looks as if it were lim_x
	e, id := one("lim_x", odd, 0)
	r.project(first, second, plain, other, e)
	var got explanation
	r.get(r.mine, "/requests/"+id+"/explain", http.StatusOK, &got)
	if u := got.UsedBy; u == nil || u.Requests != 2 || u.Units != 2 || u.Denied != 0 {
		t.Errorf("used by: %+v", u)
	}
}

func TestExplainOfCountedDenials(t *testing.T) {
	r := newRig(t)
	e := flood(r.mine, "key_a", "lim_x", noon, 40)
	r.project(e)
	var got explanation
	r.get(r.mine, "/requests/"+e.GetId()+"/explain", http.StatusOK, &got)
	const want = "This row counts 40 requests of key key_a that were refused by lim_x with rate_limit_exceeded (429)"
	if len(got.Why) != 1 || !strings.HasPrefix(got.Why[0], want) || got.UsedBy != nil || len(got.Checks) != 1 {
		t.Errorf("got %s", fmt.Sprintf("%+v", got))
	}
}

// A window whose log is too large to be read costs the explanation its neighbours and nothing else.
func TestExplainWithoutTheLogOfTheWindow(t *testing.T) {
	r := newRigOn(t, nowhere, inFront(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			body, err := io.ReadAll(req.Body)
			if err != nil || strings.Contains(string(body), "simpleJSON") {
				w.Header().Set("X-ClickHouse-Exception-Code", "159")
				http.Error(w, "Code: 159. DB::Exception: Timeout exceeded. (TIMEOUT_EXCEEDED)", http.StatusInternalServerError)
				return
			}
			req.Body = io.NopCloser(bytes.NewReader(body))
			next.ServeHTTP(w, req)
		})
	}))
	r.create()
	e, id := decision{workspace: r.mine, key: "key_a", at: noon, check: &rateguardv1.Check{Id: "l", Scope: "workspace", Limit: 10, Unit: "requests", WindowUs: 60e6}}.record()
	r.project(e)
	var got explanation
	r.get(r.mine, "/requests/"+id+"/explain", http.StatusOK, &got)
	if len(got.Why) != 4 || !strings.HasPrefix(got.Why[1], "Who else used it is not known") || got.UsedBy == nil || !got.UsedBy.Incomplete {
		t.Errorf("got %+v", got)
	}
}
