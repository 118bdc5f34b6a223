package spool

import (
	"context"
	"fmt"
	"os"
	"slices"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Predecessor is a dead producer whose records this folder still holds.
type Predecessor struct {
	// Status is what Kafka knows of it; its offsets are set once WaitPredecessor has returned.
	Status *rateguardv1.ProducerStatus
	// Rebooted: the machine was started anew since. A power cut may have taken the last records before they were synced.
	Rebooted bool
}

func (s *Spool) predecessorFolders() []*folder {
	s.predMu.Lock()
	defer s.predMu.Unlock()
	return slices.Clone(s.preds)
}

// Predecessors returns the ids of the producers that were found in the folder and are not forgotten yet, oldest first.
func (s *Spool) Predecessors() []string {
	var ids []string
	for _, f := range s.predecessorFolders() {
		ids = append(ids, f.id)
	}
	return ids
}

// WaitPredecessor waits until everything of a predecessor is acknowledged by Kafka.
func (s *Spool) WaitPredecessor(ctx context.Context, id string) (Predecessor, error) {
	for _, f := range s.predecessorFolders() {
		if f.id != id {
			continue
		}
		select {
		case <-f.drained:
			return Predecessor{Status: s.status(&f.meta), Rebooted: f.meta.BootID != bootID()}, nil
		case <-ctx.Done():
			return Predecessor{}, fmt.Errorf("waiting for predecessor %s: %w", id, context.Cause(ctx))
		}
	}
	return Predecessor{}, fmt.Errorf("waiting for predecessor %s: %w", id, os.ErrNotExist)
}

// Forget removes the folder of a predecessor that is shipped and closed.
func (s *Spool) Forget(id string) error {
	s.predMu.Lock()
	defer s.predMu.Unlock()
	i := slices.IndexFunc(s.preds, func(f *folder) bool { return f.id == id })
	if i < 0 {
		return nil
	}
	f := s.preds[i]
	size := f.diskBytes()
	if err := os.RemoveAll(f.dir); err != nil {
		return fmt.Errorf("removing predecessor %s: %w", id, err)
	}
	s.used.Add(-size)
	s.preds = slices.Delete(s.preds, i, i+1)
	return nil
}
