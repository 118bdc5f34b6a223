package gokakit

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// applied returns the last offset of a topic that is in a value; -1 when none is.
func applied(v *rateguardv1.TableValue, topicID []byte) int64 {
	if i, found := findApplied(v, topicID); found {
		return v.GetApplied()[i].GetOffset()
	}
	return -1
}

func setApplied(v *rateguardv1.TableValue, topicID []byte, offset int64) {
	i, found := findApplied(v, topicID)
	if found {
		v.Applied[i].Offset = offset
		return
	}
	v.Applied = slices.Insert(v.Applied, i, &rateguardv1.Applied{TopicId: topicID, Offset: offset})
}

func findApplied(v *rateguardv1.TableValue, topicID []byte) (int, bool) {
	return slices.BinarySearchFunc(v.GetApplied(), topicID, func(a *rateguardv1.Applied, id []byte) int { return bytes.Compare(a.GetTopicId(), id) })
}

// supersedes reports whether next may take the place of held: it is of a later generation,
// or of the same and nothing that held has applied is missing in it. A process that was
// paused past its session writes values that are not.
func supersedes(next, held *rateguardv1.TableValue) bool {
	if c := cmp.Compare(next.GetGeneration(), held.GetGeneration()); c != 0 {
		return c > 0
	}
	for _, a := range held.GetApplied() {
		if applied(next, a.GetTopicId()) < a.GetOffset() {
			return false
		}
	}
	return true
}

// valueCodec is goka's codec of the table. Values are encoded in one way only, so that equal values are equal bytes.
type valueCodec struct{}

// Encode implements goka.Codec.
func (valueCodec) Encode(value any) ([]byte, error) {
	v, ok := value.(*rateguardv1.TableValue)
	if !ok {
		return nil, fmt.Errorf("encoding a table value: got %T", value)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding a table value: %w", err)
	}
	return b, nil
}

// Decode implements goka.Codec. Only values that the merge has read reach it.
func (valueCodec) Decode(data []byte) (any, error) { return decodeValue(data) }

func decodeValue(data []byte) (*rateguardv1.TableValue, error) {
	v := new(rateguardv1.TableValue)
	if err := proto.Unmarshal(data, v); err != nil {
		return nil, fmt.Errorf("decoding a table value: %w", err)
	}
	return v, nil
}
