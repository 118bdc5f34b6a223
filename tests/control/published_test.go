package control_test

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/projections/control"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/secret"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// id returns the workspace id of its path.
func id(ws string) string { return strings.TrimPrefix(ws, "/v1/workspaces/") }

// lastPolicy returns the last record of the workspace in the policies topic.
func lastPolicy(all []record, ws string) *rateguardv1.WorkspacePolicy {
	var last *rateguardv1.WorkspacePolicy
	for _, r := range all {
		if r.topic == topics.Policies.Name && r.key == ws && r.event != nil {
			last = r.event.GetWorkspacePolicy()
		}
	}
	return last
}

func lastKey(all []record, id string) *rateguardv1.KeyRecord {
	var last *rateguardv1.KeyRecord
	for _, r := range all {
		if r.topic == topics.Keys.Name && r.key == id && r.event != nil {
			last = r.event.GetKeyRecord()
		}
	}
	return last
}

func TestChangesAreInTheLog(t *testing.T) {
	kafka := brokers(newCluster(t))
	s, _ := running(t, settings(t, newDatabase(t), kafka))
	l := follow(t, kafka, topics.Policies.Name, topics.PolicyHistory.Name, topics.Keys.Name, topics.Audit.Name)
	ws := s.workspace("a")
	l.until("the first policy", func(all []record) bool { return lastPolicy(all, id(ws)) != nil })

	s.root().do("PUT", ws+"/routes/r", map[string]any{"provider": "openai", "base_url": "http://h", "credential": "sk-1", "timeout": "2s"}).want(t, 201)
	all := l.until("the route", func(all []record) bool { return len(lastPolicy(all, id(ws)).GetRoutes()) == 1 })
	route := lastPolicy(all, id(ws)).GetRoutes()[0]
	key, err := secret.ParseKey(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := secret.Open(key, id(ws), "r", route.GetCredentialSealed()); err != nil || string(plain) != "sk-1" {
		t.Errorf("credential: got %q, %v", plain, err)
	}
	if route.GetTimeoutUs() != 2_000_000 || route.GetIdleTimeoutUs() != 300_000_000 {
		t.Errorf("timeouts: %v", route)
	}

	leaky := map[string]any{"scope": "key", "match": map[string]any{"model": "gpt-4*"}, "algorithm": "leaky_bucket", "limit": 5, "window": "1s", "max_delay": "250ms"}
	s.root().do("PUT", ws+"/limits/b", leaky).want(t, 201)
	s.root().do("PUT", ws+"/limits/a", anyLimit).want(t, 201)
	all = l.until("the limits", func(all []record) bool { return len(lastPolicy(all, id(ws)).GetLimits()) == 2 })
	wantLimits := []*rateguardv1.Limit{
		{Id: "a", Scope: "workspace", Unit: "requests", Algorithm: "token_bucket", Limit: 5, WindowUs: 60_000_000, Burst: 5, Mode: "strict", OnStoreFailure: "open"},
		{
			Id: "b", Scope: "key", Match: &rateguardv1.Match{Model: "gpt-4*"}, Unit: "requests", Algorithm: "leaky_bucket", Limit: 5, WindowUs: 1_000_000,
			Burst: 5, Mode: "strict", OnStoreFailure: "open", MaxDelayUs: 250_000,
		},
	}
	for i, got := range lastPolicy(all, id(ws)).GetLimits() {
		if !proto.Equal(got, wantLimits[i]) {
			t.Errorf("limit %d: got %v, want %v", i, got, wantLimits[i])
		}
	}
	s.root().do("DELETE", ws+"/limits/b", nil).want(t, 204)
	l.until("the deletion of a limit", func(all []record) bool { return len(lastPolicy(all, id(ws)).GetLimits()) == 1 })

	keyID, keySecret := s.key(ws, map[string]any{"models": []string{"gpt-*"}})
	all = l.until("the key", func(all []record) bool { return lastKey(all, keyID) != nil })
	sum := sha256.Sum256([]byte(keySecret))
	if k := lastKey(all, keyID); !bytes.Equal(k.GetSha256(), sum[:]) || !slices.Equal(k.GetScopes(), []string{"invoke"}) || k.GetWorkspaceId() != id(ws) {
		t.Errorf("key record: %v", k)
	}
	s.root().do("POST", ws+"/keys/"+keyID+"/revoke", nil).want(t, 200)
	l.until("the revocation", func(all []record) bool { return lastKey(all, keyID).GetRevokedAtUnixUs() > 0 })

	s.root().do("DELETE", ws, nil).want(t, 204)
	all = l.until("the deletion", func(all []record) bool {
		return lastPolicy(all, id(ws)).GetDeleted() && countTopic(all, topics.PolicyHistory.Name) == 6 && countTopic(all, topics.Audit.Name) == 8
	})
	checkChain(t, all)
	checkActions(t, all, "workspace.create", "route.put", "limit.put", "limit.put", "limit.delete", "key.create", "key.revoke", "workspace.delete")
	for _, r := range all {
		if want := hash.Partition([]byte(r.key), partitions); r.partition != want {
			t.Errorf("%s of %s: partition %d, want %d", r.topic, r.key, r.partition, want)
		}
		if strings.Contains(r.event.String(), keySecret) || strings.Contains(r.event.String(), "sk-1") {
			t.Errorf("%s holds a secret: %v", r.topic, r.event)
		}
	}
}

func checkActions(t *testing.T, all []record, want ...string) {
	t.Helper()
	var got []string
	for _, r := range all {
		if r.topic == topics.Audit.Name {
			got = append(got, r.event.GetControlAction().GetAction())
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("actions: got %v, want %v", got, want)
	}
}

func countTopic(all []record, name string) (n int) {
	for _, r := range all {
		if r.topic == name {
			n++
		}
	}
	return n
}

// checkChain verifies the audit records as anyone can who reads the topic.
func checkChain(t *testing.T, all []record) {
	t.Helper()
	var previous []byte
	for _, r := range all {
		if r.topic != topics.Audit.Name {
			continue
		}
		a := r.event.GetControlAction()
		if !bytes.Equal(a.GetPreviousHash(), previous) {
			t.Errorf("%s: the chain is broken", a.GetAction())
		}
		if want := control.ActionHash(r.event.GetWorkspaceId(), r.event.GetOccurredAtUnixUs(), a); !bytes.Equal(a.GetHash(), want) {
			t.Errorf("%s: the hash is not that of the record", a.GetAction())
		}
		previous = a.GetHash()
	}
}
