package call

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"time"
)

// NewID returns a UUIDv7 of the instant. Its random part is of the runtime's ChaCha8 generator:
// ids are unique and not guessable in practice, and no secret.
func NewID(now time.Time) string {
	var u [16]byte
	binary.BigEndian.PutUint64(u[:8], uint64(now.UnixMilli())<<16|rand.Uint64()&0x0fff|0x7000) //nolint:gosec // an id, no secret; the time is after 1970
	binary.BigEndian.PutUint64(u[8:], rand.Uint64()>>2|1<<63)                                  //nolint:gosec // an id, no secret
	var b [36]byte
	hex.Encode(b[:8], u[:4])
	hex.Encode(b[9:13], u[4:6])
	hex.Encode(b[14:18], u[6:8])
	hex.Encode(b[19:23], u[8:10])
	hex.Encode(b[24:], u[10:])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}
