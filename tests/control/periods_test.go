package control_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

// TestPeriodsAreExtended lets the policies of three workspaces grow old in the database, without any broker: those whose budgets have less
// than half of their horizon left come again, and reach Redis.
func TestPeriodsAreExtended(t *testing.T) {
	database := newDatabase(t)
	cfg := settings(t, database, "127.0.0.1:1")
	before := idle(t, cfg)
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	age := func(period string, by time.Duration) string {
		ws := before.workspace(period)
		before.root().do("PUT", ws+"/budgets/b", map[string]any{"usd": "1", "period": period}).want(t, 201)
		if _, err := conn.Exec(t.Context(), "UPDATE control.workspaces SET periods_from = now() - $2::interval WHERE id = $1", id(ws), by); err != nil {
			t.Fatal(err)
		}
		return ws
	}
	const day = 24 * time.Hour
	old := []string{age("hour", 4*day+2*time.Hour), age("day", 9*day), age("week", 25*day), age("month", 80*day)}
	young := []string{age("hour", 3*day), age("day", 6*day), age("week", 15*day), age("month", 40*day), age("total", 400*day)}
	gone := age("hour", 30*day)
	before.root().do("DELETE", gone, nil).want(t, 204)

	next := settings(t, database, "127.0.0.1:1")
	redisURL, client := newRedis(t)
	next.RedisURL = redisURL
	running(t, next)
	policy := func(ws string) *rateguardv1.WorkspacePolicy {
		e, err := envelope.Decode([]byte(client.HGet(t.Context(), keyspace.Policy(id(ws)), "d").Val()))
		if err != nil {
			return nil
		}
		return e.GetWorkspacePolicy()
	}
	for _, ws := range old {
		await(t, "the next version", func() bool { return policy(ws).GetVersion() == 3 })
		starts := policy(ws).GetBudgets()[0].GetBoundariesUnixUs()
		if now := time.Now().UnixMicro(); starts[0] > now || starts[1] > now || starts[len(starts)-1] < now {
			t.Errorf("%s: the periods are not around now: %v", policy(ws).GetBudgets()[0].GetPeriod(), starts)
		}
	}
	for _, ws := range young {
		await(t, "the policy", func() bool { return policy(ws) != nil })
		if got := policy(ws).GetVersion(); got != 2 {
			t.Errorf("%s: version %d of a policy that shows enough", policy(ws).GetName(), got)
		}
	}
	await(t, "the deleted one", func() bool { return policy(gone).GetDeleted() })
	if got := policy(gone).GetVersion(); got != 3 {
		t.Errorf("a deleted workspace was published again, with version %d", got)
	}
}
