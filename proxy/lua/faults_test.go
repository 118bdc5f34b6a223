package lua_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
)

// refused calls until the breaker opens and checks that Redis' refusal was named and that nothing ran.
func refused(t *testing.T, s *lua.Store, want lua.Reason) {
	t.Helper()
	seen := false
	redistest.Until(t, "an open breaker", func() bool {
		_, err := consume(t.Context(), s, "k")
		if err == nil {
			return false
		}
		if lua.MayHaveRun(err) {
			t.Errorf("%v may have run", err)
		}
		got := reason(t, err)
		if got != want && got != lua.ReasonOpen {
			t.Errorf("got %s (%v), want %s", got, err, want)
		}
		seen = seen || got == want
		return got == lua.ReasonOpen
	})
	if !seen {
		t.Errorf("nobody said %s", want)
	}
}

// A full Redis still answers a read: only a probe that writes knows, else the breaker would close again and again.
func TestAFullServerIsLeftAloneUntilThereIsRoom(t *testing.T) {
	r := redistest.Start(t)
	seen := &changes{}
	s := openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient, OnChange: seen.note})
	mustConsume(t, s, "k")
	r.Do("config", "set", "maxmemory", "1")
	refused(t, s, "oom")
	for range 20 {
		tick := time.NewTimer(20 * time.Millisecond)
		<-tick.C
		_, err := consume(t.Context(), s, "k")
		if err == nil || reason(t, err) != lua.ReasonOpen {
			t.Fatalf("got %v, want an open breaker", err)
		}
	}
	r.Do("config", "set", "maxmemory", "0")
	works(t, s, "k")
	redistest.Until(t, "one alert and its end", func() bool { return len(seen.all()) == 2 })
	if got := seen.all(); got[0] != "open oom" {
		t.Errorf("changes %q", got)
	}
}

func TestADemotedServerIsUsedAgainWhenItIsPrimary(t *testing.T) {
	primary, r := redistest.Start(t), redistest.Start(t)
	s := openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient})
	mustConsume(t, s, "k")
	r.Replicate(primary)
	refused(t, s, lua.ReasonReadOnly)
	r.Do("replicaof", "no", "one")
	works(t, s, "k")
}

// The address leads to a new primary, and the pool is full of connections to the old one, which still work.
func TestConnectionsToADemotedServerAreDropped(t *testing.T) {
	old, next := redistest.Start(t), redistest.Start(t)
	name := newRelay(t, old.Addr)
	s := openStore(t, lua.StoreConfig{URL: "redis://" + name.addr, Timeout: patient})
	done := make(chan error, 32)
	for range cap(done) {
		go func() {
			_, err := consume(t.Context(), s, "k")
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	old.Replicate(next)
	name.lead(next.Addr)
	// No call notices: the first READONLY drops every idle connection, and the second try dials the new primary.
	for range 8 {
		mustConsume(t, s, "k")
	}
}

func TestALoadingServerIsWaitedFor(t *testing.T) {
	r := redistest.Start(t)
	r.Do("debug", "populate", 2000)
	r.Do("save")
	s := openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient})
	mustConsume(t, s, "k")
	r.Kill()
	// 2,000 keys of 1 ms each, and a look at the clients after each.
	r.Restart("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
	refused(t, s, "loading")
	works(t, s, "k")
}

func TestAnEvictingServerTurnsTheStoreOff(t *testing.T) {
	r := redistest.Start(t)
	seen := &changes{}
	s := openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient, OnChange: seen.note})
	r.Do("config", "set", "maxmemory-policy", "allkeys-lru")
	if err := s.CheckServer(t.Context()); err != nil {
		t.Errorf("without a limit nothing is evicted: %v", err)
	}
	r.Do("config", "set", "maxmemory", "100mb")
	if err := s.CheckServer(t.Context()); !errors.Is(err, lua.ErrEvicting) {
		t.Errorf("got %v, want ErrEvicting", err)
	}
	if _, err := consume(t.Context(), s, "k"); !errors.Is(err, lua.ErrEvicting) || reason(t, err) != lua.ReasonEvicting {
		t.Errorf("got %v, want ErrEvicting", err)
	}
	r.Do("config", "set", "maxmemory-policy", "noeviction")
	if err := s.CheckServer(t.Context()); err != nil {
		t.Error(err)
	}
	mustConsume(t, s, "k")
}

// Managed services forbid CONFIG, and some users may not ask for INFO.
func TestTheServersSettingsAreSeenWithoutConfig(t *testing.T) {
	r := redistest.Start(t)
	r.Do("config", "set", "maxmemory", "100mb")
	r.Do("config", "set", "maxmemory-policy", "volatile-ttl")
	for _, c := range []struct {
		name, rule string
		want       error
	}{
		{"managed", "-config", lua.ErrEvicting},
		{"strict", "-info", lua.ErrEvicting},
		{"blind", "-info -config", nil},
	} {
		args := []any{"acl", "setuser", c.name, "on", ">secret", "~*", "+@all"}
		for rule := range strings.FieldsSeq(c.rule) {
			args = append(args, rule)
		}
		r.Do(args...)
		s := openStore(t, lua.StoreConfig{URL: fmt.Sprintf("redis://%s:secret@%s", c.name, r.Addr), Timeout: patient})
		if err := s.CheckServer(t.Context()); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestAWrongPasswordIsNoBug(t *testing.T) {
	r := redistest.Start(t, "--requirepass", "right")
	s := openStore(t, lua.StoreConfig{URL: "redis://:wrong@" + r.Addr, Timeout: patient})
	_, err := consume(t.Context(), s, "k")
	if got := reason(t, err); got != lua.ReasonAuth || lua.MayHaveRun(err) {
		t.Errorf("got %s: %v", got, err)
	}
	good := openStore(t, lua.StoreConfig{URL: "redis://:right@" + r.Addr, Timeout: patient})
	mustConsume(t, good, "k")
}
