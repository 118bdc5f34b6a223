package gokakit

import (
	"fmt"

	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// valueCodec is goka's codec of the table. Values are encoded in one way only, so that equal values are equal bytes.
type valueCodec struct{}

// Encode implements goka.Codec.
func (valueCodec) Encode(value any) ([]byte, error) {
	v, ok := value.(*rateguardv1.TableValue)
	if !ok {
		return nil, fmt.Errorf("encoding a table value: got %T", value)
	}
	return fold.EncodeValue(v)
}

// Decode implements goka.Codec. Only values that the merge has read reach it.
func (valueCodec) Decode(data []byte) (any, error) { return fold.DecodeValue(data) }
