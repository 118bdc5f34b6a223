package faults_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/tests/harness/faults"
)

// Of two calls in one round trip whose answers are held both are caught: the server has run both.
func TestAnswersOfOneRoundTripAreHeld(t *testing.T) {
	t.Parallel()
	r := faults.StartRedis(t)
	relay := faults.NewRelay(t, r.Addr)
	client := redis.NewClient(&redis.Options{Addr: relay.Addr(), ReadTimeout: time.Minute})
	t.Cleanup(func() { _ = client.Close() })
	held := relay.Catch(faults.HoldAnswer, 2, func(c faults.Command) bool { return c[0] == "incr" })
	pipe := client.Pipeline()
	first, second := pipe.Incr(t.Context(), "calls"), pipe.Incr(t.Context(), "calls")
	done := make(chan error, 1)
	go func() {
		_, err := pipe.Exec(t.Context())
		done <- err
	}()
	held.Await(2)
	if n, err := r.Client.Get(t.Context(), "calls").Int(); n != 2 || err != nil {
		t.Errorf("the server has run %d calls, %v", n, err)
	}
	select {
	case err := <-done:
		t.Errorf("an answer arrived that is held: %v", err)
	default:
	}
	held.Release()
	if err := <-done; err != nil || first.Val() != 1 || second.Val() != 2 {
		t.Errorf("got %d and %d, %v", first.Val(), second.Val(), err)
	}
}
