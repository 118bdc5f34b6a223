package mockprovider

import (
	"encoding/base64"
	"encoding/binary"
	"math"
)

// embedding returns a vector in the format that the request asks for: the Python SDK asks for
// little-endian float32 in base64 by default.
func embedding(v []float64, format string) any {
	if format != "base64" {
		return v
	}
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(x)))
	}
	return base64.StdEncoding.EncodeToString(b)
}
