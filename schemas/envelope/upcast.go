package envelope

import (
	"fmt"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// upcasters[v] brings an event of version v to v+1. An entry is added together with a
// golden of the old bytes when a field's meaning has to change; adding a field needs none.
var upcasters = map[uint32]func(*rateguardv1.Event){}

func upcast(e *rateguardv1.Event) error {
	return upcastTo(e, SchemaVersion, upcasters)
}

func upcastTo(e *rateguardv1.Event, current uint32, chain map[uint32]func(*rateguardv1.Event)) error {
	v := e.GetSchemaVersion()
	if v == 0 {
		return fmt.Errorf("%w: no schema version", ErrMalformed)
	}
	if v > current {
		return fmt.Errorf("%w: %d, this release reads up to %d", ErrNewerSchema, v, current)
	}
	for ; v < current; v++ {
		up, ok := chain[v]
		if !ok {
			return fmt.Errorf("%w: no upcaster from version %d", ErrMalformed, v)
		}
		up(e)
		e.SchemaVersion = v + 1
	}
	return nil
}
