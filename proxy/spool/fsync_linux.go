package spool

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// fsyncs asks the kernel for an fsync and waits for it in the network poller. A goroutine in fsync(2) holds a thread for longer than the scheduler lets a system
// call pass: it takes the processor away, wakes another thread, and looks every 20 µs for more such calls, which at 200 fsyncs a second costs more than they do.
// The interface is that of Linux' native AIO (io_submit(2)): the usual profiles of container runtimes refuse io_uring.
type fsyncs struct {
	mu       sync.Mutex // one at a time; guards all
	context  uintptr
	done     *os.File // an eventfd, which counts what has ended
	eventFD  uint32
	block    controlBlock
	blocks   [1]*controlBlock
	event    completion
	eventBuf [8]byte
}

// controlBlock is struct iocb of linux/aio_abi.h.
type controlBlock struct {
	_         [16]byte // aio_data, aio_key, aio_rw_flags
	operation uint16
	_         int16 // aio_reqprio
	file      uint32
	_         [32]byte // aio_buf, aio_nbytes, aio_offset, aio_reserved2
	flags     uint32
	eventFD   uint32
}

// completion is struct io_event.
type completion struct {
	_      [16]byte // data, obj
	result int64
	_      int64 // res2
}

// Of linux/aio_abi.h.
const (
	operationFsync = 2 // IOCB_CMD_FSYNC
	flagEventFD    = 1 // IOCB_FLAG_RESFD
)

// processFsyncs is the process's own, nil where the kernel has none to give: sandboxes without AIO, or fs.aio-max-nr used up.
var processFsyncs = sync.OnceValue(func() *fsyncs { //nolint:gochecknoglobals // one context for all spools of a process
	y, err := newFsyncs()
	if err != nil {
		return nil
	}
	return y
})

func newFsyncs() (*fsyncs, error) {
	y := &fsyncs{}
	if err := y.setUp(); err != nil {
		return nil, err
	}
	fd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		_, _, _ = syscall.Syscall(syscall.SYS_IO_DESTROY, y.context, 0, 0)
		return nil, os.NewSyscallError("eventfd2", errno)
	}
	y.eventFD, y.done = uint32(fd), os.NewFile(fd, "eventfd") //nolint:gosec // descriptors are small
	return y, nil
}

// errNotAsynchronous means that nothing was synced: the file is closed, or it or the kernel knows no such fsync.
var errNotAsynchronous = errors.New("no asynchronous fsync")

// sync is f.Sync. An error of the disk is that of fsync(2), which must not be tried again.
func (y *fsyncs) sync(f *os.File) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("%w: %w", errNotAsynchronous, err)
	}
	var refused error
	err = raw.Control(func(fd uintptr) { refused = y.submit(fd) }) // from here on the kernel holds the file
	if err = errors.Join(err, refused); err != nil {
		return fmt.Errorf("%w: %w", errNotAsynchronous, err)
	}
	if _, err := y.done.Read(y.eventBuf[:]); err != nil {
		return fmt.Errorf("waiting for an fsync: %w", err)
	}
	switch errno, err := y.result(); {
	case err != nil:
		return fmt.Errorf("waiting for an fsync: %w", err)
	case errno == syscall.EINVAL:
		return fmt.Errorf("%w: %w", errNotAsynchronous, errno)
	case errno != 0:
		return &os.PathError{Op: "fsync", Path: f.Name(), Err: errno}
	}
	return nil
}

// The kernel gets pointers into y, which is on the heap.

func (y *fsyncs) setUp() error {
	_, _, errno := syscall.Syscall(syscall.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&y.context)), 0) //nolint:gosec // as unsafe.Pointer's rule 4 has it
	return os.NewSyscallError("io_setup", orNil(errno))
}

func (y *fsyncs) submit(fd uintptr) error {
	y.block = controlBlock{operation: operationFsync, file: uint32(fd), flags: flagEventFD, eventFD: y.eventFD} //nolint:gosec // descriptors are small
	y.blocks[0] = &y.block
	_, _, errno := syscall.Syscall(syscall.SYS_IO_SUBMIT, y.context, 1, uintptr(unsafe.Pointer(&y.blocks))) //nolint:gosec // as setUp
	return os.NewSyscallError("io_submit", orNil(errno))
}

// result takes the completion that is there, and returns what fsync(2) would have.
func (y *fsyncs) result() (syscall.Errno, error) {
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_IO_GETEVENTS, y.context, 1, 1, uintptr(unsafe.Pointer(&y.event)), 0, 0) //nolint:gosec // as setUp
		if errno == 0 {
			return syscall.Errno(-min(0, y.event.result)), nil //nolint:gosec // not below 0
		}
		if errno != syscall.EINTR {
			return 0, os.NewSyscallError("io_getevents", errno)
		}
	}
}

func orNil(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// segmentFile is a file whose fsync holds no thread, where the kernel can do that.
type segmentFile struct{ *os.File }

// Sync implements File.
func (f segmentFile) Sync() error {
	if y := processFsyncs(); y != nil {
		if err := y.sync(f.File); !errors.Is(err, errNotAsynchronous) {
			return err
		}
	}
	return f.File.Sync() //nolint:wrapcheck // it names the file and the call
}
