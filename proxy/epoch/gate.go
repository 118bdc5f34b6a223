// Package epoch holds which epochs of the budgets in Redis this process may still use. An epoch is one life of that state: what was
// granted in an old one is known to whoever rebuilds it only because every producer has sealed, after which it opens nothing under it.
package epoch

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/rateguard/rateguard/topics/hash"
)

// ErrOld means that the grant belongs to an epoch which this process has sealed meanwhile: the request must not be sent.
var ErrOld = errors.New("the grant is of an epoch that was given up")

// Gate is the least epoch that this process may use, by partition of the costs topic. It knows none until Start.
type Gate struct {
	parts atomic.Pointer[[]part]
}

type part struct {
	// mu guards least: held for reading while an opening is appended, for writing while a seal is.
	mu    sync.RWMutex
	least uint64
}

// NewGate returns a gate that lets nobody through yet.
func NewGate() *Gate { return new(Gate) }

// Start opens the gate for a topic of that many partitions; least names those whose epochs begin above 1. It is called once.
func (g *Gate) Start(partitions int, least map[int32]uint64) {
	parts := make([]part, partitions)
	for i := range parts {
		parts[i].least = max(1, least[int32(i)])
	}
	g.parts.Store(&parts)
}

func (g *Gate) part(workspace string) *part {
	parts := g.parts.Load()
	if parts == nil {
		return nil
	}
	return &(*parts)[hash.Partition([]byte(workspace), int32(len(*parts)))] //nolint:gosec // a number of partitions
}

// Least returns the least epoch that may be used for the workspace; false before Start.
func (g *Gate) Least(workspace string) (uint64, bool) {
	p := g.part(workspace)
	if p == nil {
		return 0, false
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.least, true
}

// Open calls do, which appends the opening of a grant, unless the grant's epoch was given up: then it returns ErrOld. A grant of epoch 0
// was not made in Redis and is not asked.
func (g *Gate) Open(workspace string, epoch uint64, do func() error) error {
	if epoch == 0 {
		return do()
	}
	p := g.part(workspace)
	if p == nil {
		return fmt.Errorf("opening under epoch %d: %w", epoch, ErrOld)
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if epoch < p.least {
		return fmt.Errorf("opening under epoch %d, the least is %d: %w", epoch, p.least, ErrOld)
	}
	return do()
}

// Seal gives up all epochs below n in a partition and calls do, which appends the seal: every opening under one of them stands in front of it,
// and none comes behind it. The epochs stay given up when do fails. It returns false, without a call, before Start.
func (g *Gate) Seal(partition int32, n uint64, do func() error) (bool, error) {
	parts := g.parts.Load()
	if parts == nil || partition < 0 || int(partition) >= len(*parts) {
		return false, nil
	}
	p := &(*parts)[partition]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.least = max(p.least, n)
	return true, do()
}
