//go:build !linux

package child

import (
	"os"
	"syscall"
)

func selfPath() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// attributes has no death signal to set here: a re-executed child ends when its standard input
// does, and a foreign program may outlive a kill -9 of the parent (its engine then adopts it).
func attributes(base *syscall.SysProcAttr, _ syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{}
	if base != nil {
		*attr = *base
	}
	attr.Setpgid = true
	return attr
}
