package envelope_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"
)

// Whichever encoder takes an event, the bytes are the same: of every body type, with any of its fields unset.
func TestEncodersAgree(t *testing.T) {
	for _, body := range bodies() {
		t.Run(string(body.Name()), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				event := populatedEvent(body)
				thin(rt, event.ProtoReflect().Mutable(body).Message())
				want, err := proto.MarshalOptions{Deterministic: true}.Marshal(event)
				if err != nil {
					rt.Fatal(err)
				}
				if got := encode(t, event); !bytes.Equal(got, want) {
					rt.Errorf("got  %x\nwant %x", got, want)
				}
			})
		})
	}
}

// thin unsets fields of a message and of those within it.
func thin(rt *rapid.T, m protoreflect.Message) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case rapid.IntRange(0, 3).Draw(rt, string(fd.Name())) == 0:
			m.Clear(fd)
		case fd.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
				if rapid.Bool().Draw(rt, "entry") {
					v.Map().Clear(k)
				}
				return true
			})
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				thin(rt, v.List().Get(i).Message())
			}
		case fd.Message() != nil:
			thin(rt, v.Message())
		}
		return true
	})
}
