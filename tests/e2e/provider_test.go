package e2e_test

import (
	"errors"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/mockprovider"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/oracle"
)

// served returns what the provider remembers of the requests with an idempotency key, by that key, and waits until
// it is done with all of them.
func served(t *testing.T, s *harness.System, keys map[string]bool) map[string]mockprovider.Record {
	t.Helper()
	var found map[string]mockprovider.Record
	harness.Eventually(t, 60*time.Second, func() error {
		found = map[string]mockprovider.Record{}
		for _, r := range s.Mock.Served() {
			if !keys[r.IdempotencyKey] {
				continue
			}
			if !r.Ended {
				return errors.New("the provider still serves " + r.IdempotencyKey)
			}
			if found[r.IdempotencyKey].ID != "" {
				t.Fatalf("the provider got request %s twice", r.IdempotencyKey)
			}
			found[r.IdempotencyKey] = r
		}
		return nil
	})
	return found
}

// billed is what the provider would bill for what it produced, by the oracle.
func billed(t *testing.T, r mockprovider.Record) int64 {
	t.Helper()
	nano, err := oracle.Nano(r.Model, oracle.Tokens{Input: r.Usage.Input, CacheRead: r.Usage.Cached, CacheWrite: r.Usage.CacheWrite, Output: r.Usage.Output})
	if err != nil {
		t.Fatal(err)
	}
	return nano
}

// reached returns nil once the provider got the request.
func reached(s *harness.System, key string) error {
	for _, r := range s.Mock.Served() {
		if r.IdempotencyKey == key {
			return nil
		}
	}
	return errors.New("the provider has not got " + key)
}
