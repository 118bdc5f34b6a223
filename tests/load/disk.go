package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// syncs is how often one look at the disk syncs, and syncBytes what it writes before each: about what a proxy has appended between two of its own.
	syncs     = 100
	syncBytes = 4096
)

// disk is what fsync takes where the proxy keeps its log.
type disk struct {
	took []time.Duration
}

// measure syncs a file in a folder.
func (d *disk) measure(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "fsync"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening a file to sync: %w", err)
	}
	defer func() { _ = f.Close() }()
	block := make([]byte, syncBytes)
	for range syncs {
		if _, err := f.Write(block); err != nil {
			return fmt.Errorf("writing a file to sync: %w", err)
		}
		start := time.Now()
		if err := f.Sync(); err != nil {
			return fmt.Errorf("syncing: %w", err)
		}
		d.took = append(d.took, time.Since(start))
	}
	return nil
}

// quantile returns what that part of the syncs took at most.
func (d *disk) quantile(q float64) time.Duration {
	slices.Sort(d.took)
	return d.took[min(len(d.took)-1, int(q*float64(len(d.took))))]
}
