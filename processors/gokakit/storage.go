package gokakit

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/lovoo/goka/storage"
)

// mapStorage keeps one partition of a table in a map. goka's own memory storage sorts all
// keys whenever one is added, and its disk storage outlives the process: what a crash leaves there
// may never have reached the table's topic.
type mapStorage struct {
	// onRecovered runs once the topic has been read and before the partition runs.
	onRecovered func() error

	mu     sync.RWMutex // guards what follows
	values map[string][]byte
	offset *int64
}

var _ storage.Storage = (*mapStorage)(nil)

func newMapStorage(onRecovered func() error) *mapStorage {
	return &mapStorage{onRecovered: onRecovered, values: map[string][]byte{}}
}

// Open implements storage.Storage.
func (*mapStorage) Open() error { return nil }

// Close implements storage.Storage.
func (*mapStorage) Close() error { return nil }

// MarkRecovered implements storage.Storage.
func (s *mapStorage) MarkRecovered() error {
	if s.onRecovered == nil {
		return nil
	}
	return s.onRecovered()
}

// Has implements storage.Storage.
func (s *mapStorage) Has(key string) (bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.values[key]
	return ok, nil
}

// Get implements storage.Storage.
func (s *mapStorage) Get(key string) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.values[key], nil
}

// Set implements storage.Storage.
func (s *mapStorage) Set(key string, value []byte) error {
	if value == nil {
		return fmt.Errorf("storing nil under %q", key)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[key] = value
	return nil
}

// Delete implements storage.Storage.
func (s *mapStorage) Delete(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, key)
	return nil
}

// GetOffset implements storage.Storage. The offset stands beside the map: no key of ours can be mistaken for it.
func (s *mapStorage) GetOffset(def int64) (int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.offset == nil {
		return def, nil
	}
	return *s.offset, nil
}

// SetOffset implements storage.Storage.
func (s *mapStorage) SetOffset(offset int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset = &offset
	return nil
}

// Iterator implements storage.Storage.
func (s *mapStorage) Iterator() (storage.Iterator, error) { return s.IteratorWithRange(nil, nil) }

// IteratorWithRange implements storage.Storage: keys from start up to but not including limit, in order.
func (s *mapStorage) IteratorWithRange(start, limit []byte) (storage.Iterator, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	values := make(map[string][]byte, len(s.values))
	for k, v := range s.values {
		if k >= string(start) && (len(limit) == 0 || k < string(limit)) {
			values[k] = v
		}
	}
	return &mapIterator{keys: slices.Sorted(maps.Keys(values)), values: values, at: -1}, nil
}

// mapIterator walks over a snapshot.
type mapIterator struct {
	keys   []string
	values map[string][]byte
	at     int
}

var _ storage.Iterator = (*mapIterator)(nil)

// Next implements storage.Iterator.
func (i *mapIterator) Next() bool {
	i.at++
	return i.at < len(i.keys)
}

// Err implements storage.Iterator.
func (*mapIterator) Err() error { return nil }

// Key implements storage.Iterator.
func (i *mapIterator) Key() []byte {
	if i.at < 0 || i.at >= len(i.keys) {
		return nil
	}
	return []byte(i.keys[i.at])
}

// Value implements storage.Iterator.
func (i *mapIterator) Value() ([]byte, error) {
	if i.at < 0 || i.at >= len(i.keys) {
		return nil, nil
	}
	return i.values[i.keys[i.at]], nil
}

// Release implements storage.Iterator.
func (i *mapIterator) Release() { i.at = len(i.keys) }

// Seek implements storage.Iterator.
func (i *mapIterator) Seek(key []byte) bool {
	at, _ := slices.BinarySearch(i.keys, string(key))
	i.at = at
	return at < len(i.keys)
}
