package gokakit

import (
	"fmt"
	"sync"

	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"

	"github.com/rateguard/rateguard/schemas/fold"
)

// merger is the update callback of every reader of a table: it refuses records that would
// take a key back. goka fences no writer, so a process that was paused past its session writes
// such records; compaction would keep them, being the last.
type merger struct {
	// onRefused is called with the partition of every refused record; may be nil.
	onRefused func(partition int32, key string)

	mu sync.Mutex // guards refused
	// refused are the keys by partition whose last record in the topic was refused.
	refused map[int32]map[string]bool
}

// Update implements goka.UpdateCallback.
func (m *merger) Update(ctx goka.UpdateContext, s storage.Storage, key string, value []byte) error {
	held, err := s.Get(key)
	if err != nil {
		return fmt.Errorf("reading %q to merge it: %w", key, err)
	}
	if fold.Accept(value, held) {
		m.note(ctx.Partition(), key, false)
		return s.Set(key, value)
	}
	m.note(ctx.Partition(), key, held != nil)
	if m.onRefused != nil {
		m.onRefused(ctx.Partition(), key)
	}
	return nil
}

func (m *merger) note(partition int32, key string, refused bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !refused {
		delete(m.refused[partition], key)
		return
	}
	if m.refused == nil {
		m.refused = map[int32]map[string]bool{}
	}
	if m.refused[partition] == nil {
		m.refused[partition] = map[string]bool{}
	}
	m.refused[partition][key] = true
}

// take returns the refused keys of a partition and forgets them.
func (m *merger) take(partition int32) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := make([]string, 0, len(m.refused[partition]))
	for k := range m.refused[partition] {
		keys = append(keys, k)
	}
	delete(m.refused, partition)
	return keys
}
