package control_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/topics"
)

// TestAWorkspaceDeletedLongAgoIsForgotten has one of each kind of thing in it: what is left over would hold it back for ever.
func TestAWorkspaceDeletedLongAgoIsForgotten(t *testing.T) {
	kafka, database := brokers(newCluster(t)), newDatabase(t)
	before := idle(t, settings(t, database, kafka))
	ws := before.workspace("a")
	keyID, _ := before.key(ws, map[string]any{})
	for _, kind := range kinds {
		before.root().do("PUT", ws+kind.path, kind.any).want(t, 201)
	}
	before.root().do("DELETE", ws, nil).want(t, 204)
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), "UPDATE control.workspaces SET deleted_at = now() - interval '401 days'"); err != nil {
		t.Fatal(err)
	}
	running(t, settings(t, database, kafka))
	follow(t, kafka, topics.Policies.Name, topics.Keys.Name).until("the tombstones", func(all []record) bool {
		gone := map[string]bool{}
		for _, r := range all {
			gone[r.key] = r.event == nil
		}
		return gone[id(ws)] && gone[keyID]
	})
}
