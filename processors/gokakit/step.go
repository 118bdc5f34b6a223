package gokakit

import (
	"fmt"

	"github.com/rateguard/rateguard/processors/group"
	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// stateLimit is the size of a state past which something is wrong with the group's bounds:
// it is noted, and the state stays right. Brokers refuse a record only far above.
const stateLimit = 64 << 10

// record is what the codec of an input makes of its bytes. It never fails: goka ends Run on
// an error of a codec, and the same record would end the next Run too.
type record struct {
	event *rateguardv1.Event
	value []byte
	err   error
}

// eventCodec is goka's codec of the inputs.
type eventCodec struct{}

// Encode implements goka.Codec; inputs are only read.
func (eventCodec) Encode(value any) ([]byte, error) {
	return nil, fmt.Errorf("encoding an input: got %T", value)
}

// Decode implements goka.Codec.
func (eventCodec) Decode(data []byte) (any, error) {
	e, err := envelope.Decode(data)
	return &record{event: e, value: data, err: err}, nil
}

// outcome says what a step did with an input.
type outcome string

const (
	outcomeApplied  outcome = "applied"
	outcomeRepeated outcome = "repeated"
	outcomeBad      outcome = "bad"
	outcomeClock    outcome = "clock"
	outcomeAcked    outcome = "acknowledged"
)

// position is where an input stands.
type position struct {
	topicID   []byte
	partition int32
	offset    int64
	kind      inputKind
}

// inputKind is what a topic is for its group. Only what is counted moves an applied offset: a tick or an acknowledgement that
// did would order two states by something else than what they counted.
type inputKind int

const (
	counted inputKind = iota
	clock
	acknowledgement
)

// step is the one way from an input to a table value. Whatever happens, the caller writes the
// result: one record an input, so that the table is a prefix of the inputs. It is nil only for an acknowledgement of what is
// not here, after the table was made anew.
func step(g group.Graph, held *rateguardv1.TableValue, at position, key string, in *record) (*rateguardv1.TableValue, outcome, []fold.Note) {
	if at.kind == acknowledgement && in.err == nil {
		return acknowledge(held, in.event.GetOutboxAcknowledged().GetIds()), outcomeAcked, nil
	}
	next := held
	if next == nil {
		next = new(rateguardv1.TableValue)
	}
	if at.kind == counted && at.offset <= fold.Applied(next, at.topicID) {
		// Not "return": if the table's topic lacks what the store has, this writes it.
		return next, outcomeRepeated, nil
	}
	next.Generation = g.Generation
	if at.kind == counted {
		fold.SetApplied(next, at.topicID, at.offset)
	}
	if in.err != nil {
		return next, outcomeBad, nil
	}
	did := g.Fold(next.GetState(), group.Input{Key: key, Event: in.event})
	next.State = did.State
	notes := append(did.Notes, enqueue(g, next, at, did.Outputs)...)
	if n := len(next.GetState()); n > stateLimit {
		notes = append(notes, fold.Note{Kind: "state_large", Detail: fmt.Sprintf("%d bytes", n)})
	}
	if at.kind == clock {
		return next, outcomeClock, notes
	}
	return next, outcomeApplied, notes
}
