//go:build !linux

package spool

import "os"

// segmentFile is a file as the system has it.
type segmentFile struct{ *os.File }
