package policy

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// snapshotMagic begins a snapshot; its number is the version of the form.
const snapshotMagic = "RGCONF1\n"

// errSnapshot means that a snapshot cannot be used; it is read from Kafka then.
var errSnapshot = errors.New("configuration snapshot is damaged")

// position is how far the topics are applied.
type position struct {
	// At is when the view was last known to be in step with Kafka.
	At     time.Time                `json:"at"`
	Topics map[string]topicPosition `json:"topics"`
	// Revoked are keys that were seen to be revoked elsewhere than in the topic.
	Revoked []string `json:"revoked,omitempty"`
}

type topicPosition struct {
	// ID is Kafka's id of the topic: offsets mean nothing in another one of the same name.
	ID string `json:"id"`
	// Next is the next offset to read of each partition.
	Next map[int32]int64 `json:"next"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// save writes all records and the position, so that a crash leaves the old snapshot or the new one.
func (v *View) save(path string, p position) error {
	p.Revoked = nil
	v.revoked.Range(func(id, _ any) bool {
		p.Revoked = append(p.Revoked, fmt.Sprint(id))
		return true
	})
	slices.Sort(p.Revoked)
	header, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("writing configuration snapshot: %w", err)
	}
	b := append([]byte(snapshotMagic), binary.AppendUvarint(nil, uint64(len(header)))...)
	b = append(b, header...)
	v.mu.Lock()
	for k, e := range v.entries {
		for _, part := range [][]byte{[]byte(k.topic), []byte(k.key), e.value} {
			b = binary.AppendUvarint(b, uint64(len(part)))
			b = append(b, part...)
		}
	}
	v.mu.Unlock()
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if err := writeAtomically(path, b); err != nil {
		return fmt.Errorf("writing configuration snapshot: %w", err)
	}
	return nil
}

func writeAtomically(path string, b []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600: it has sealed credentials
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err = f.Write(b); err != nil {
		return errors.Join(err, f.Close())
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// load applies a snapshot. The error is os.ErrNotExist when there is none.
func (v *View) load(path string) (position, error) {
	b, err := os.ReadFile(path) //nolint:gosec // a path of the operator's
	if err != nil {
		return position{}, fmt.Errorf("reading configuration snapshot: %w", err)
	}
	if len(b) < len(snapshotMagic)+4 || !bytes.HasPrefix(b, []byte(snapshotMagic)) {
		return position{}, errSnapshot
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return position{}, errSnapshot
	}
	body = body[len(snapshotMagic):]
	header, body, ok := field(body)
	var p position
	if !ok || json.Unmarshal(header, &p) != nil {
		return position{}, errSnapshot
	}
	for _, id := range p.Revoked {
		v.Revoke(id)
	}
	for len(body) > 0 {
		var topic, key, value []byte
		if topic, body, ok = field(body); ok {
			if key, body, ok = field(body); ok {
				value, body, ok = field(body)
			}
		}
		if !ok {
			return position{}, errSnapshot
		}
		if _, err := v.Apply(string(topic), string(key), value, 0); err != nil {
			v.log.Error("record of the configuration snapshot is ignored", slog.Any("error", err))
		}
	}
	return p, nil
}

func field(b []byte) (value, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) { //nolint:gosec // size is not more than len(b)
		return nil, nil, false
	}
	return b[size : size+int(n)], b[size+int(n):], true //nolint:gosec // not more than len(b)
}
