// Package envelope turns events into the bytes and headers of a Kafka record and back.
// It is the only place that knows the shape of a record, so that producer and consumer
// cannot drift; upcasters for older shapes live here too.
package envelope

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// SchemaVersion is the version that new events are written with.
const SchemaVersion = 1

// Names of the record headers. Type and version allow routing without decoding the value.
const (
	HeaderType        = "rg-type"
	HeaderVersion     = "rg-version"
	HeaderTraceParent = "traceparent"
)

// Field numbers of Event that AppendSequence writes.
const (
	fieldProducerID protowire.Number = 3
	fieldSequence   protowire.Number = 4
)

// Errors of Decode. A consumer sends such a record to the dead letters; it never retries it.
var (
	// ErrMalformed means that the value is no Event.
	ErrMalformed = errors.New("malformed event")
	// ErrNewerSchema means that the event was written by a newer release.
	ErrNewerSchema = errors.New("event has a newer schema version")
	// ErrNoBody means that the event has no body that this release knows.
	ErrNoBody = errors.New("event has no known body")
)

// Header is one record header.
type Header struct {
	Key   string
	Value []byte
}

// Encode returns the record value of an event. It sets the schema version. Equal events give equal bytes.
func Encode(e *rateguardv1.Event) ([]byte, error) { return AppendEncode(nil, e) }

// AppendEncode appends what Encode returns to b.
func AppendEncode(b []byte, e *rateguardv1.Event) ([]byte, error) {
	e.SchemaVersion = SchemaVersion
	if e.GetBody() == nil {
		return b, fmt.Errorf("encoding event %s: %w", e.GetId(), ErrNoBody)
	}
	next, err := appendMarshal(b, e)
	if err != nil {
		return b, fmt.Errorf("encoding event %s: %w", e.GetId(), err)
	}
	return next, nil
}

// appendMarshal takes generated code for the events of each request: a third of the time. That code knows no order of a map's entries, and does not look whether
// text is UTF-8, which whoever takes it from a client has seen to.
func appendMarshal(b []byte, e *rateguardv1.Event) ([]byte, error) {
	var tags map[string]string
	switch body := e.GetBody().(type) {
	case *rateguardv1.Event_ReservationOpened:
		tags = body.ReservationOpened.GetContext().GetTags()
	case *rateguardv1.Event_RequestRecorded:
		tags = body.RequestRecorded.GetContext().GetTags()
	case *rateguardv1.Event_CostSettled, *rateguardv1.Event_ReservationVoided, *rateguardv1.Event_ReservationExpired:
	default:
		return proto.MarshalOptions{Deterministic: true}.MarshalAppend(b, e)
	}
	if len(tags) > 1 {
		return proto.MarshalOptions{Deterministic: true}.MarshalAppend(b, e)
	}
	size := e.SizeVT()
	b = slices.Grow(b, size)
	if _, err := e.MarshalToSizedBufferVTStrict(b[len(b) : len(b)+size]); err != nil {
		return nil, err
	}
	return b[:len(b)+size], nil
}

// AppendSequence appends producer id and sequence to an encoded event that has neither.
// Protobuf defines the concatenation of two messages as their merge, so the spool can
// number a record inside its append lock without encoding the event there.
func AppendSequence(value []byte, producerID string, sequence uint64) []byte {
	value = protowire.AppendTag(value, fieldProducerID, protowire.BytesType)
	value = protowire.AppendString(value, producerID)
	value = protowire.AppendTag(value, fieldSequence, protowire.VarintType)
	return protowire.AppendVarint(value, sequence)
}

// Decode reads a record value and brings older events to the current shape.
func Decode(value []byte) (*rateguardv1.Event, error) {
	e := new(rateguardv1.Event)
	if err := proto.Unmarshal(value, e); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := upcast(e); err != nil {
		return nil, err
	}
	if e.GetBody() == nil {
		return nil, fmt.Errorf("event %s: %w", e.GetId(), ErrNoBody)
	}
	return e, nil
}

// Headers returns the record headers of an event; traceParent may be empty. An alert is a CloudEvent too.
func Headers(e *rateguardv1.Event, traceParent string) []Header {
	h := []Header{
		{HeaderType, []byte(TypeName(e))},
		{HeaderVersion, strconv.AppendUint(nil, uint64(e.GetSchemaVersion()), 10)},
	}
	if traceParent != "" {
		h = append(h, Header{HeaderTraceParent, []byte(traceParent)})
	}
	if a := e.GetAlert(); a != nil {
		h = appendCloudEvent(h, e, a)
	}
	return h
}

// TypeName returns the name of the body's field in Event, for example "cost_settled"; empty without a body.
func TypeName(e *rateguardv1.Event) string {
	m := e.ProtoReflect()
	fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("body"))
	if fd == nil {
		return ""
	}
	return string(fd.Name())
}
