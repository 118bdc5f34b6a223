package postgres

import (
	"os"
	"syscall"
)

// nobody is the user that PostgreSQL runs as when it must not be root.
const nobody = 65534

// identity is the user that the server's processes run as.
type identity struct {
	base  *syscall.SysProcAttr
	chown bool
}

// attr returns a fresh copy for one process.
func (i identity) attr() *syscall.SysProcAttr {
	if i.base == nil {
		return nil
	}
	attr := *i.base
	return &attr
}

// chooseIdentity finds a way around PostgreSQL's refusal to run as root.
func chooseIdentity() (identity, error) {
	if os.Geteuid() != 0 {
		return identity{}, nil
	}
	return rootIdentity()
}
