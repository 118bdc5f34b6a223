package child

import "syscall"

// selfPath is the running binary, also when its file was replaced or removed by a new build.
func selfPath() string { return "/proc/self/exe" }

func attributes(base *syscall.SysProcAttr, death syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{}
	if base != nil {
		*attr = *base
	}
	if death == 0 {
		death = syscall.SIGKILL
	}
	attr.Pdeathsig = death
	// A group of its own: Ctrl-C in the terminal goes to the parent, which stops the engines in order.
	attr.Setpgid = true
	return attr
}
