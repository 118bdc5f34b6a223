package lua_test

import (
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/lua"
)

func TestTheBreakerOpensOnARunOfFailures(t *testing.T) {
	var b lua.Breaker
	now := time.Now()
	for range 4 {
		b.Call(now, lua.ReasonTimeout)
	}
	b.Call(now, "")
	for range 5 {
		if !b.Call(now, lua.ReasonTimeout) {
			t.Fatal("open too early")
		}
	}
	if b.Call(now, "") {
		t.Error("still closed after five failures in a row")
	}
	b.Heal()
	if !b.Call(now, "") {
		t.Error("still open after it healed")
	}
}

func TestTheBreakerOpensWhereHalfOfTheCallsFail(t *testing.T) {
	var b lua.Breaker
	now := time.Now()
	for i := range 100 {
		cause := lua.Reason("")
		if i%2 == 0 {
			cause = lua.ReasonTimeout
		}
		if !b.Call(now, cause) {
			if i != 21 {
				t.Errorf("opened before call %d, want 21", i)
			}
			return
		}
	}
	t.Error("still closed")
}

func TestAFewFailuresNowAndThenOpenNothing(t *testing.T) {
	var b lua.Breaker
	now := time.Now()
	for i := range 10_000 {
		cause := lua.Reason("")
		if i%3 == 0 {
			cause = lua.ReasonTimeout
		}
		if !b.Call(now, cause) {
			t.Fatalf("opened at call %d", i)
		}
		now = now.Add(10 * time.Millisecond)
	}
}

// Calls that hung while the server was away end after it came back.
func TestALateFailureOpensNothing(t *testing.T) {
	var b lua.Breaker
	now := time.Now()
	var ends []func(time.Time, lua.Reason)
	for range 20 {
		ends = append(ends, b.Begin())
	}
	for _, end := range ends[:5] {
		end(now, lua.ReasonTimeout)
	}
	b.Heal()
	for _, end := range ends[5:] {
		end(now, lua.ReasonTimeout)
	}
	if !b.Call(now, "") {
		t.Error("open because of calls of an earlier life")
	}
}
