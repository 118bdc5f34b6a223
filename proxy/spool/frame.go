package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/rateguard/rateguard/schemas/envelope"
)

// A segment is segmentMagic, then frames. A frame is what one append wrote, in little endian:
//
//	u32 length of the payload (never 0, so that a hole full of zeros is no frame), u32 CRC-32C of the payload, payload
//	payload = i64 µs of the append, i64 nano-USD of the ends in it, u32 number of records, records
//	record  = str topic, str key, u64 sequence, uvarint number of headers, (str name, str value)…, str value; str = uvarint length, bytes
//
// The checksum covers the frame as a whole: an end and its RequestRecorded are both there or neither is.
const (
	segmentMagic = "RGSPOOL1"
	frameHeader  = 8
	frameFixed   = 8 + 8 + 4
	// maxPayload bounds what a reader believes of a length; the appends stay far below it.
	maxPayload = 256 << 20
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errTorn    = errors.New("torn or corrupt frame")
)

// position is a place in one producer's log. Segments count from 1.
type position struct {
	segment uint64
	offset  int64
}

func (p position) before(q position) bool {
	return p.segment < q.segment || p.segment == q.segment && p.offset < q.offset
}

// frame is one whole frame with its place.
type frame struct {
	// end is the position behind it.
	end     position
	data    []byte
	at      int64
	nano    int64
	records int
}

// stored is one record as it stands in a frame; its fields point into the frame's bytes.
type stored struct {
	topic, key []byte
	sequence   uint64
	headers    []envelope.Header
	value      []byte
}

// sequenceBytes is the most that envelope.AppendSequence adds to a value.
const sequenceBytes = 1 + 1 + 36 + 1 + 10

// frameBytes returns an upper bound of the size of a frame of these records.
func frameBytes(records []Record) int64 {
	n := frameHeader + frameFixed
	for i := range records {
		n += recordBytes(&records[i])
	}
	return int64(n)
}

func recordBytes(r *Record) int {
	n := strBytes(len(r.Topic.Name)) + strBytes(len(r.Key)) + 8 + binary.MaxVarintLen16 + strBytes(len(r.Value)+sequenceBytes)
	for i := range r.Headers {
		n += strBytes(len(r.Headers[i].Key)) + strBytes(len(r.Headers[i].Value))
	}
	return n
}

func strBytes(n int) int { return binary.MaxVarintLen32 + n }

// beginFrame appends the parts that are known before the records are.
func beginFrame(b []byte, at, nano int64, records int) []byte {
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(at))         //nolint:gosec // bit pattern, read back the same way
	b = binary.LittleEndian.AppendUint64(b, uint64(nano))       //nolint:gosec // bit pattern, read back the same way
	return binary.LittleEndian.AppendUint32(b, uint32(records)) //nolint:gosec // a frame holds a handful
}

// appendRecord appends one record; the sequence is merged into its value.
func appendRecord(b []byte, r *Record, producer string, sequence uint64) []byte {
	b = appendStr(b, r.Topic.Name)
	b = appendStr(b, r.Key)
	b = binary.LittleEndian.AppendUint64(b, sequence)
	b = binary.AppendUvarint(b, uint64(len(r.Headers)))
	for i := range r.Headers {
		b = appendStr(b, r.Headers[i].Key)
		b = appendStr(b, r.Headers[i].Value)
	}
	extra := 1 + protowire.SizeBytes(len(producer)) + 1 + protowire.SizeVarint(sequence)
	b = binary.AppendUvarint(b, uint64(len(r.Value)+extra)) //nolint:gosec // lengths are not negative
	return envelope.AppendSequence(append(b, r.Value...), producer, sequence)
}

func appendStr[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// sealFrame fills in length and checksum.
func sealFrame(b []byte) {
	payload := b[frameHeader:]
	binary.LittleEndian.PutUint32(b, uint32(len(payload))) //nolint:gosec // bounded by the append's limits
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(payload, castagnoli))
}

// payloadLength reads the length of a frame's payload from its header.
func payloadLength(header []byte) (int64, error) {
	n := int64(binary.LittleEndian.Uint32(header))
	if n < frameFixed || n > maxPayload {
		return 0, errTorn
	}
	return n, nil
}

// openFrame checks the bytes of one frame and reads its fixed part.
func openFrame(data []byte) (frame, error) {
	payload := data[frameHeader:]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(data[4:]) {
		return frame{}, errTorn
	}
	return frame{
		data:    data,
		at:      int64(binary.LittleEndian.Uint64(payload)),     //nolint:gosec // bit pattern, written the same way
		nano:    int64(binary.LittleEndian.Uint64(payload[8:])), //nolint:gosec // bit pattern, written the same way
		records: int(binary.LittleEndian.Uint32(payload[16:])),
	}, nil
}

// decode returns the records of a frame whose checksum is right.
func (f *frame) decode() ([]stored, error) {
	d := decoder{b: f.data[frameHeader+frameFixed:]}
	records := make([]stored, 0, min(f.records, len(d.b)))
	for range f.records {
		r := stored{topic: d.str(), key: d.str(), sequence: d.u64()}
		n := d.uvarint()
		if n > uint64(len(d.b)) {
			d.bad = true
		}
		if d.bad {
			break
		}
		r.headers = make([]envelope.Header, n)
		for i := range r.headers {
			r.headers[i] = envelope.Header{Key: string(d.str()), Value: d.str()}
		}
		r.value = d.str()
		records = append(records, r)
	}
	if d.bad || len(d.b) != 0 {
		return nil, fmt.Errorf("decoding frame: %w", errTorn)
	}
	return records, nil
}

// decoder reads the parts of a payload; bad is sticky.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) u64() uint64 {
	if len(d.b) < 8 {
		d.bad, d.b = true, nil
		return 0
	}
	v := binary.LittleEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

func (d *decoder) str() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	s := d.b[:n:n]
	d.b = d.b[n:]
	return s
}

// Fields of Event and below that hold the cost of a first end.
const (
	fieldSettled    protowire.Number = 21
	fieldExpired    protowire.Number = 23
	fieldOutcome    protowire.Number = 1
	fieldOutcomeUSD protowire.Number = 4
)

// endNano returns the cost of the end that an encoded event carries, 0 when it carries none. It walks
// the wire format, because decoding every end a second time would cost more than the append.
func endNano(event []byte) int64 {
	for num := fieldSettled; num <= fieldExpired; num++ {
		if body := lookup(event, num); body != nil {
			return int64(lookupVarint(lookup(body, fieldOutcome), fieldOutcomeUSD)) //nolint:gosec // int64 on the wire
		}
	}
	return 0
}

func lookup(b []byte, want protowire.Number) []byte {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil
		}
		b = b[n:]
		if num == want && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b)
			return v
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return nil
		}
		b = b[n:]
	}
	return nil
}

func lookupVarint(b []byte, want protowire.Number) uint64 {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0
		}
		b = b[n:]
		if num == want && typ == protowire.VarintType {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return 0
			}
			return v
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return 0
		}
		b = b[n:]
	}
	return 0
}
