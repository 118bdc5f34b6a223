package postgres

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// rootIdentity prefers a user namespace in which root is called nobody: the files stay root's,
// nothing is handed over. Where the kernel or the container forbids it, the server runs as nobody.
func rootIdentity() (identity, error) {
	namespace := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: 0, Size: 1}},
	}
	if path, err := exec.LookPath("true"); err == nil {
		probe := exec.Command(path) //nolint:gosec,noctx // G204: the path of true, which ends at once
		probe.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: namespace.Cloneflags, UidMappings: namespace.UidMappings, GidMappings: namespace.GidMappings,
		}
		if probe.Run() == nil {
			return identity{base: namespace}, nil
		}
	}
	return identity{base: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}, chown: true}, nil
}

// own hands the folder to the server's user.
func (i identity) own(dir string) error {
	if !i.chown {
		return nil
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody) //nolint:gosec // G122: a folder that was ours alone until now
	})
	if err != nil {
		return fmt.Errorf("handing %s to the user nobody: %w", dir, err)
	}
	return nil
}
