package spool

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

func allocate(f *os.File, from, to int64) error {
	err := syscall.Fallocate(int(f.Fd()), 0, from, to-from)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return fill(f, from, to)
	}
	if err != nil {
		return fmt.Errorf("allocating: %w", err)
	}
	return nil
}
