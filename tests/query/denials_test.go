package query_test

import (
	"crypto/rand"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	store "github.com/rateguard/rateguard/projections/clickhouse"
	"github.com/rateguard/rateguard/projections/requests"
	"github.com/rateguard/rateguard/projections/runner"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// A flood that the proxy counted stands in the sums as so many denied requests, and in the list as one row that says so.
func TestCountedDenialsAreRequests(t *testing.T) {
	r := newRig(t)
	at := noon.Add(90 * time.Minute)
	one := newRow(r.mine, at)
	one.status, one.denied = 402, true
	r.insert(one)
	target, ok := requests.New(store.Requests(r.store)).Target.(runner.Ranged)
	if !ok {
		t.Fatal("the table takes no blocks")
	}
	id := uuid.Must(uuid.NewV7()).String()
	block := target.Form(runner.Batch{Generation: "g1", Records: []runner.Record{{Workspace: r.mine, Offset: 100, Event: &rateguardv1.Event{
		Id: id, WorkspaceId: r.mine,
		Body: &rateguardv1.Event_DenialsAggregated{DenialsAggregated: &rateguardv1.DenialsAggregated{
			KeyId: "key_a", LimitId: "b1", ErrorCode: "budget_exceeded", Status: 402, WindowStartUnixUs: at.UnixMicro(), WindowUs: 1e6, Count: 40,
		}},
	}}}})
	if err := target.Insert(t.Context(), block, rand.Text()); err != nil {
		t.Fatalf("inserting: %v", err)
	}
	for name, span := range map[string][2]time.Time{
		"rows": {at, at.Add(time.Second)}, "hourly sums": {noon, noon.Add(2 * time.Hour)},
	} {
		var got usage
		r.get(r.mine, "/usage?group_by=status,key&"+between(span[0], span[1]), http.StatusOK, &got)
		if len(got.Data) != 1 {
			t.Fatalf("%s: got %v", name, got.Data)
		}
		if g := got.Data[0]; g.Requests != 41 || g.Denied != 41 || g.Errors != 41 || g.Status != 402 || g.Key != "key_a" || g.CostUSD != "0" {
			t.Errorf("%s: got %+v, want 41 denied requests", name, g)
		}
	}
	var list struct {
		Data []struct {
			ID        string `json:"id"`
			ErrorCode string `json:"error_code"`
			Decision  string `json:"decision"`
			Requests  int    `json:"requests"`
		} `json:"data"`
	}
	r.get(r.mine, "/requests?status=402&decision=denied&"+between(noon, noon.Add(2*time.Hour)), http.StatusOK, &list)
	found := false
	for _, x := range list.Data {
		found = found || x.ID == id && x.ErrorCode == "budget_exceeded" && x.Requests == 40
	}
	if len(list.Data) != 2 || !found {
		t.Errorf("got %+v, want a row of 40 and one of 1", list.Data)
	}
}
