package fold_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

func TestAccept(t *testing.T) {
	value := func(generation uint32, offsets ...int64) []byte {
		v := &rateguardv1.TableValue{Generation: generation}
		for i, o := range offsets {
			v.Applied = append(v.Applied, &rateguardv1.Applied{TopicId: []byte{byte(i)}, Offset: o})
		}
		b, err := proto.Marshal(v)
		if err != nil {
			t.Fatalf("encoding: %v", err)
		}
		return b
	}
	for name, test := range map[string]struct {
		held, next []byte
		taken      bool
	}{
		"first":                       {nil, value(1, 5), true},
		"later":                       {value(1, 5), value(1, 6), true},
		"the same again":              {value(1, 5), value(1, 5), true},
		"earlier":                     {value(1, 5), value(1, 4), false},
		"later generation":            {value(1, 5), value(2, 0), true},
		"earlier generation":          {value(2, 0), value(1, 5), false},
		"another topic beside it":     {value(1, 5), value(1, 5, 0), true},
		"a topic is missing":          {value(1, 5, 0), value(1, 6), false},
		"deleted":                     {value(1, 5), nil, false},
		"malformed":                   {value(1, 5), []byte{0xff}, false},
		"malformed, and nothing held": {nil, []byte{0xff}, false},
		"what is held is malformed":   {[]byte{0xff}, value(1, 5), true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fold.Accept(test.next, test.held); got != test.taken {
				t.Errorf("accepted: got %t, want %t", got, test.taken)
			}
		})
	}
}
