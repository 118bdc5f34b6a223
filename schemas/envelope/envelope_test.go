package envelope_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

func tick() *rateguardv1.Event {
	return &rateguardv1.Event{
		Id: "e1", WorkspaceId: "ws_1", OccurredAtUnixUs: 1_795_000_000_000_000,
		Body: &rateguardv1.Event_Tick{Tick: &rateguardv1.Tick{Partition: 3, TimeUnixUs: 5}},
	}
}

func encode(t *testing.T, e *rateguardv1.Event) []byte {
	t.Helper()
	b, err := envelope.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEncodeSetsTheSchemaVersion(t *testing.T) {
	e := tick()
	e.SchemaVersion = 77
	got, err := envelope.Decode(encode(t, e))
	if err != nil || got.GetSchemaVersion() != envelope.SchemaVersion {
		t.Errorf("version %d, %v; want %d", got.GetSchemaVersion(), err, envelope.SchemaVersion)
	}
}

func TestEncodeRefusesAnEventWithoutBody(t *testing.T) {
	if b, err := envelope.Encode(&rateguardv1.Event{Id: "e1"}); b != nil || !errors.Is(err, envelope.ErrNoBody) {
		t.Errorf("got %x, %v; want ErrNoBody", b, err)
	}
}

// Go's maps have no order; digests and de-duplication need one.
func TestEqualEventsHaveEqualBytes(t *testing.T) {
	build := func() *rateguardv1.Event {
		tags := map[string]string{}
		for _, k := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			tags[k] = k
		}
		return &rateguardv1.Event{Body: &rateguardv1.Event_RequestRecorded{RequestRecorded: &rateguardv1.RequestRecorded{
			Context: &rateguardv1.RequestContext{Tags: tags},
		}}}
	}
	want := encode(t, build())
	for range 50 {
		if got := encode(t, build()); !bytes.Equal(got, want) {
			t.Fatalf("got %x\nwant %x", got, want)
		}
	}
}

func TestAppendSequenceEqualsTheFullEncoding(t *testing.T) {
	events := bodies()
	rapid.Check(t, func(rt *rapid.T) {
		e := populatedEvent(rapid.SampledFrom(events).Draw(rt, "body"))
		e.ProducerId, e.Sequence = "", 0
		e.WorkspaceId = rapid.String().Draw(rt, "workspace")
		producer, sequence := rapid.String().Draw(rt, "producer"), rapid.Uint64().Draw(rt, "sequence")

		got, err := envelope.Decode(envelope.AppendSequence(encode(t, e), producer, sequence))
		if err != nil {
			rt.Fatal(err)
		}
		e.ProducerId, e.Sequence = producer, sequence
		if !proto.Equal(got, e) {
			rt.Fatalf("got %v\nwant %v", got, e)
		}
		if again := encode(t, got); !bytes.Equal(again, encode(t, e)) {
			rt.Fatalf("encoded again %x", again)
		}
	})
}

// The spool appends to a buffer with room; the bytes before it must not move.
func TestAppendSequenceKeepsTheValue(t *testing.T) {
	value := encode(t, tick())
	buffer := append(make([]byte, 0, 1024), value...)
	if got := envelope.AppendSequence(buffer, "p1", 9); !bytes.HasPrefix(got, value) || &got[0] != &buffer[0] {
		t.Errorf("got %x", got)
	}
}

func TestDecodeErrors(t *testing.T) {
	versioned := func(version uint64, rest ...byte) []byte {
		b := protowire.AppendTag(nil, 2, protowire.VarintType)
		return append(protowire.AppendVarint(b, version), rest...)
	}
	unknownBody := protowire.AppendBytes(protowire.AppendTag(nil, 999, protowire.BytesType), []byte("x"))
	good := encode(t, tick())
	for name, c := range map[string]struct {
		value []byte
		want  error
	}{
		"empty":                          {nil, envelope.ErrMalformed},
		"no protobuf":                    {[]byte("{\"id\":1}"), envelope.ErrMalformed},
		"cut short":                      {good[:len(good)-1], envelope.ErrMalformed},
		"invalid UTF-8":                  {versioned(1, 10, 1, 0xff), envelope.ErrMalformed},
		"no schema version":              {protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), []byte("id")), envelope.ErrMalformed},
		"no body":                        {versioned(1), envelope.ErrNoBody},
		"a body of a newer release":      {versioned(1, unknownBody...), envelope.ErrNoBody},
		"a newer version":                {versioned(2, good...)[:2], envelope.ErrNewerSchema},
		"a newer version and its body":   {versioned(1<<31, unknownBody...), envelope.ErrNewerSchema},
		"the last version of two counts": {append(bytes.Clone(good), versioned(2)...), envelope.ErrNewerSchema},
	} {
		if e, err := envelope.Decode(c.value); e != nil || !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, %v; want %v", name, e, err, c.want)
		}
	}
}

func TestDecodeNeverPanics(t *testing.T) {
	good := encode(t, tick())
	rapid.Check(t, func(t *rapid.T) {
		b := bytes.Clone(good)
		for range rapid.IntRange(1, 4).Draw(t, "flips") {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "to")
		}
		if e, err := envelope.Decode(b); (e == nil) == (err == nil) {
			t.Fatalf("got %v, %v", e, err)
		}
	})
}

// A field of a newer release survives being read and written by this one.
func TestUnknownFieldsAreKept(t *testing.T) {
	extra := protowire.AppendString(protowire.AppendTag(nil, 900, protowire.BytesType), "later")
	e, err := envelope.Decode(append(encode(t, tick()), extra...))
	if err != nil {
		t.Fatal(err)
	}
	if got := encode(t, e); !bytes.Contains(got, extra) {
		t.Errorf("got %x without %x", got, extra)
	}
}

func TestHeaders(t *testing.T) {
	e := tick()
	encode(t, e)
	typeAndVersion := []envelope.Header{{Key: "rg-type", Value: []byte("tick")}, {Key: "rg-version", Value: []byte("1")}}
	if diff := cmp.Diff(typeAndVersion, envelope.Headers(e, "")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	want := append(typeAndVersion, envelope.Header{Key: "traceparent", Value: []byte(trace)})
	if diff := cmp.Diff(want, envelope.Headers(e, trace)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	alert := &rateguardv1.Event{
		Id: "e1", WorkspaceId: "ws/1", OccurredAtUnixUs: 1_790_000_000_000_500,
		Body: &rateguardv1.Event_Alert{Alert: &rateguardv1.Alert{Rule: "budget:b1", State: "raised"}},
	}
	encode(t, alert)
	want = []envelope.Header{
		{Key: "rg-type", Value: []byte("alert")},
		{Key: "rg-version", Value: []byte("1")},
		{Key: "ce_specversion", Value: []byte("1.0")},
		{Key: "ce_id", Value: []byte("e1")},
		{Key: "ce_source", Value: []byte("/rateguard/workspaces/ws%2F1")},
		{Key: "ce_type", Value: []byte("rateguard.alert.raised")},
		{Key: "ce_subject", Value: []byte("budget:b1")},
		{Key: "ce_time", Value: []byte("2026-09-21T14:13:20.0005Z")},
		{Key: "content-type", Value: []byte("application/protobuf")},
	}
	if diff := cmp.Diff(want, envelope.Headers(alert, "")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := envelope.TypeName(&rateguardv1.Event{}); got != "" {
		t.Errorf("type name of nothing: %q", got)
	}
}
