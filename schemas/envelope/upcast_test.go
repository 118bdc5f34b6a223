package envelope

import (
	"errors"
	"strings"
	"testing"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// There is no second version yet, so the chain is tested with one of its own.
func TestUpcastRunsEveryStepOnceInOrder(t *testing.T) {
	step := func(name string) func(*rateguardv1.Event) {
		return func(e *rateguardv1.Event) { e.Id += name }
	}
	chain := map[uint32]func(*rateguardv1.Event){1: step("a"), 2: step("b"), 3: step("c")}
	for version, want := range map[uint32]string{1: "abc", 2: "bc", 3: "c", 4: ""} {
		e := &rateguardv1.Event{SchemaVersion: version}
		if err := upcastTo(e, 4, chain); err != nil || e.GetId() != want || e.GetSchemaVersion() != 4 {
			t.Errorf("from %d: %q at version %d, %v; want %q", version, e.GetId(), e.GetSchemaVersion(), err, want)
		}
	}
}

func TestUpcastRefusesWhatItCannotRead(t *testing.T) {
	chain := map[uint32]func(*rateguardv1.Event){2: func(*rateguardv1.Event) {}}
	for _, c := range []struct {
		version uint32
		want    error
		says    string
	}{
		{0, ErrMalformed, "no schema version"},
		{1, ErrMalformed, "no upcaster from version 1"},
		{4, ErrNewerSchema, "4, this release reads up to 3"},
	} {
		err := upcastTo(&rateguardv1.Event{SchemaVersion: c.version}, 3, chain)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("version %d: got %v, want %v", c.version, err, c.want)
		}
	}
}

func TestEveryOlderVersionHasItsUpcaster(t *testing.T) {
	for v := uint32(1); v < SchemaVersion; v++ {
		if upcasters[v] == nil {
			t.Errorf("no upcaster from version %d", v)
		}
	}
	if len(upcasters) != SchemaVersion-1 {
		t.Errorf("%d upcasters for version %d", len(upcasters), SchemaVersion)
	}
}
