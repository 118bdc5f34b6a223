package keyspace_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rateguard/rateguard/schemas/keyspace"
)

func TestOrdinaryNamesStayAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"ws_01J9", "key.a-b", "0", strings.Repeat("x", 64)} {
		if got := keyspace.Name(id); got != id {
			t.Errorf("%q became %q", id, got)
		}
	}
	for _, id := range []string{"", "~x", "a/b", "a b", "{a}", "a:b", "a\x00", "é", strings.Repeat("x", 65)} {
		if got := keyspace.Name(id); !strings.HasPrefix(got, "~") || len(got) != 25 {
			t.Errorf("%.20q became %q", id, got)
		}
	}
}

// The keys that others than this code know by heart: what is in a store already must be found there.
func TestKeysAreWhereTheyWere(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ got, want string }{
		{keyspace.State("ws_1"), "rg:{ws_1}:s"},
		{keyspace.Policy("ws_1"), "rg:{ws_1}:policy"},
		{keyspace.Revoked("ws_1"), "rg:{ws_1}:revoked"},
		{keyspace.RevokedKeys, "rg:revoked"},
		{keyspace.Bucket("ws_1", "lim", "key_1"), "rg:{ws_1}:l:lim:key_1"},
		{keyspace.Bucket("ws_1", "lim", ""), "rg:{ws_1}:l:lim:~47DEQpj8HBSa-_TImW-5JCeu"},
		{keyspace.Slotted("rg:{ws_1}:l:lim:key_1", 1), "rg:{ws_1}:l:lim:key_1:1"},
		{keyspace.Mark("ws_1", "a/b"), "rg:{ws_1}:i:a.b"},
		{keyspace.BudgetPeriod{Budget: "monthly", Generation: 7, Balance: "openai/gpt 4", StartUS: 12}.Field(), "bmonthly:7:openai%2Fgpt+4:12"},
		{keyspace.Balance("total", 1, ""), "btotal:1::"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

// tag is the part of a key that decides its slot, as Redis defines it: between the first brace and the next closing one.
func tag(key string) string {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if in, _, ok := strings.Cut(rest, "}"); ok && in != "" {
			return in
		}
	}
	return key
}

// Whatever ids are made of: keys of a workspace share one slot, no two ids share a key, and a key is short and printable.
func TestIdsNeitherMeetNorLeaveTheirSlot(t *testing.T) {
	t.Parallel()
	id := rapid.OneOf(
		rapid.String(),
		rapid.StringMatching(`[{}: \n\x00~/.a-c]{0,6}`),
		rapid.SampledFrom([]string{"", "a", "~", "l", "i", "s", "policy", "revoked", strings.Repeat("é", 5_000), strings.Repeat("x", 64), strings.Repeat("x", 65)}),
		rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) }),
	)
	rapid.Check(t, func(t *rapid.T) {
		type bucket struct{ workspace, limit, subject string }
		draw := func() bucket {
			return bucket{id.Draw(t, "workspace"), id.Draw(t, "limit"), id.Draw(t, "subject")}
		}
		a, b := draw(), draw()
		ka, kb := keyspace.Bucket(a.workspace, a.limit, a.subject), keyspace.Bucket(b.workspace, b.limit, b.subject)
		if (ka == kb) != (a == b) {
			t.Fatalf("%+v and %+v: %q and %q", a, b, ka, kb)
		}
		if strings.HasPrefix(ka, kb+":") {
			t.Fatalf("%q stands in front of %q, where its parts are", kb, ka)
		}
		for _, k := range []string{
			ka, keyspace.Slotted(ka, 0), keyspace.State(a.workspace), keyspace.Policy(a.workspace), keyspace.Revoked(a.workspace), keyspace.Mark(a.workspace, "0198/x"),
		} {
			if got, want := tag(k), keyspace.Name(a.workspace); got != want {
				t.Fatalf("%q is in the slot of %q, want %q", k, got, want)
			}
			if len(k) > 256 || strings.ContainsFunc(k, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Fatalf("key %q", k)
			}
			if (k == keyspace.State(b.workspace)) != (k == keyspace.State(a.workspace) && a.workspace == b.workspace) {
				t.Fatalf("%q is the state of %q", k, b.workspace)
			}
		}
	})
}

// Whatever names are made of, they come back from their field, which has none of the characters that part one thing from the next.
func TestBalancesAreReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := keyspace.BudgetPeriod{
			Budget: rapid.String().Draw(t, "budget"), Generation: rapid.Uint64().Draw(t, "generation"),
			Balance: rapid.String().Draw(t, "balance"), StartUS: rapid.Int64().Draw(t, "start"),
		}
		field := want.Field()
		if strings.ContainsAny(field, " \n\x00{}") || strings.Count(field, ":") != 3 {
			t.Fatalf("field %q", field)
		}
		if got, err := keyspace.ParseField(field); err != nil || got != want {
			t.Fatalf("%q was read as %+v (%v), want %+v", field, got, err, want)
		}
	})
	for _, bad := range []string{"", "b", "epoch", "ba:1:b", "ba:x:b:1", "ba:1:%zz:1", "ba:1:b:1:2"} {
		if got, err := keyspace.ParseField(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}
