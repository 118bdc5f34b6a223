package fold

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Applied returns the last offset of a topic that is in a value; -1 when none is.
func Applied(v *rateguardv1.TableValue, topicID []byte) int64 {
	if i, found := findApplied(v, topicID); found {
		return v.GetApplied()[i].GetOffset()
	}
	return -1
}

// SetApplied notes that a value holds a topic up to an offset.
func SetApplied(v *rateguardv1.TableValue, topicID []byte, offset int64) {
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
		if Applied(next, a.GetTopicId()) < a.GetOffset() {
			return false
		}
	}
	return true
}

// Accept reports whether a record of a table may take the place of what is held, nil for nothing. Every reader of a
// table asks it. Nobody deletes from a table of ours, and a value that cannot be read is never better than one that can.
func Accept(record, held []byte) bool {
	next, err := DecodeValue(record)
	if err != nil || record == nil {
		return false
	}
	var before *rateguardv1.TableValue
	if held != nil {
		if before, err = DecodeValue(held); err != nil {
			return true
		}
	}
	return before == nil || supersedes(next, before)
}

// EncodeValue returns the record of a value. Equal values are equal bytes.
func EncodeValue(v *rateguardv1.TableValue) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding a table value: %w", err)
	}
	return b, nil
}

// DecodeValue reads the record of a value.
func DecodeValue(data []byte) (*rateguardv1.TableValue, error) {
	v := new(rateguardv1.TableValue)
	if err := proto.Unmarshal(data, v); err != nil {
		return nil, fmt.Errorf("decoding a table value: %w", err)
	}
	return v, nil
}
