package envelope_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

var update = flag.Bool("update", false, "write the goldens of body types that have none")

func bodies() []protoreflect.FieldDescriptor {
	var list []protoreflect.FieldDescriptor
	fields := (&rateguardv1.Event{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	for i := range fields.Len() {
		list = append(list, fields.Get(i))
	}
	return list
}

// The bytes of version 1 are in production logs for ever: a golden is never rewritten. A new field leaves the goldens as
// they are; a new body type gets its own with -update.
func TestWireBytesOfEveryBodyType(t *testing.T) {
	for _, body := range bodies() {
		t.Run(string(body.Name()), func(t *testing.T) {
			path := filepath.Join("testdata", "v1", string(body.Name()))
			if _, err := os.Stat(path + ".hex"); os.IsNotExist(err) && *update {
				writeGolden(t, path, populatedEvent(body))
			}
			event, wire := readGolden(t, path)
			got, err := envelope.Encode(proto.CloneOf(event))
			if err != nil || !bytes.Equal(got, wire) {
				t.Errorf("encoded %x, %v\nwant    %x", got, err, wire)
			}
			decoded, err := envelope.Decode(wire)
			if err != nil || !proto.Equal(decoded, event) {
				t.Errorf("decoded %v, %v\nwant    %v", decoded, err, event)
			}
			if envelope.TypeName(decoded) != string(body.Name()) {
				t.Errorf("type name %q", envelope.TypeName(decoded))
			}
		})
	}
}

func TestNoGoldenIsLeftBehind(t *testing.T) {
	files, err := filepath.Glob("testdata/v1/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(bodies()) {
		t.Errorf("%d goldens for %d body types; a new one is written with -update", len(files), len(bodies()))
	}
}

func readGolden(t *testing.T, path string) (*rateguardv1.Event, []byte) {
	t.Helper()
	text, err := os.ReadFile(path + ".json")
	if err != nil {
		t.Fatal(err)
	}
	event := new(rateguardv1.Event)
	if err := protojson.Unmarshal(text, event); err != nil {
		t.Fatal(err)
	}
	dump, err := os.ReadFile(path + ".hex")
	if err != nil {
		t.Fatal(err)
	}
	wire, err := hex.DecodeString(strings.Join(strings.Fields(string(dump)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return event, wire
}

func writeGolden(t *testing.T, path string, event *rateguardv1.Event) {
	t.Helper()
	wire, err := envelope.Encode(event)
	if err != nil {
		t.Fatal(err)
	}
	text, err := protojson.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "  "); err != nil {
		t.Fatal(err)
	}
	indented.WriteByte('\n')
	var dump strings.Builder
	for line := range slices.Chunk(wire, 48) {
		dump.WriteString(hex.EncodeToString(line) + "\n")
	}
	for name, content := range map[string][]byte{path + ".json": indented.Bytes(), path + ".hex": []byte(dump.String())} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// populatedEvent sets every field, so that no field number escapes the golden.
func populatedEvent(body protoreflect.FieldDescriptor) *rateguardv1.Event {
	e := new(rateguardv1.Event)
	m := e.ProtoReflect()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); fd.ContainingOneof() == nil || fd == body {
			populate(m, fd, 0)
		}
	}
	e.SchemaVersion = envelope.SchemaVersion
	return e
}

func populate(m protoreflect.Message, fd protoreflect.FieldDescriptor, depth int) {
	switch {
	case fd.IsMap():
		entries := m.Mutable(fd).Map()
		for _, salt := range []int{2, 1} {
			k := scalar(fd.MapKey(), salt).MapKey()
			entries.Set(k, scalar(fd.MapValue(), salt))
		}
	case fd.IsList():
		list := m.Mutable(fd).List()
		for salt := range 2 {
			if fd.Message() == nil {
				list.Append(scalar(fd, salt))
				continue
			}
			fill(list.AppendMutable().Message(), depth)
		}
	case fd.Message() != nil:
		fill(m.Mutable(fd).Message(), depth)
	default:
		m.Set(fd, scalar(fd, depth))
	}
}

func fill(m protoreflect.Message, depth int) {
	for i := range m.Descriptor().Fields().Len() {
		populate(m, m.Descriptor().Fields().Get(i), depth+1)
	}
}

// scalar makes a value that tells its field from the others.
func scalar(fd protoreflect.FieldDescriptor, salt int) protoreflect.Value {
	n := int64(fd.Number())*1000 + int64(salt)
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(string(fd.Name()) + "-" + string(rune('a'+salt)))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{byte(fd.Number()), 0, 0xff})
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n) / 8)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(n << 32)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(n) << 32)
	default:
		panic("a field kind without a golden value: " + fd.Kind().String())
	}
}
