package clickhouse

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
)

// engine is the loaded library. Its functions are bound by hand from its C header; sizes and
// pointers are machine words.
type engine struct {
	setSignalHandlers func(enabled int32)
	connectFn         func(argc int32, argv unsafe.Pointer) unsafe.Pointer
	closeConn         func(conn unsafe.Pointer)
	query             func(conn, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, n uintptr) unsafe.Pointer
	streamQuery       func(conn, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, n uintptr) unsafe.Pointer
	streamFetch       func(conn, stream unsafe.Pointer) unsafe.Pointer
	streamCancel      func(conn, stream unsafe.Pointer)
	streamInsert      func(conn, sql unsafe.Pointer, sqlLen uintptr, format unsafe.Pointer, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, n uintptr) unsafe.Pointer
	streamAppend      func(stream, data unsafe.Pointer, n uintptr) int32
	streamDone        func(stream unsafe.Pointer) unsafe.Pointer
	cancelInsert      func(stream unsafe.Pointer)
	insertError       func(stream unsafe.Pointer) unsafe.Pointer
	destroyInsert     func(stream unsafe.Pointer)
	destroyResult     func(result unsafe.Pointer)
	resultBuffer      func(result unsafe.Pointer) unsafe.Pointer
	resultLength      func(result unsafe.Pointer) uintptr
	resultError       func(result unsafe.Pointer) unsafe.Pointer
	rowsRead          func(result unsafe.Pointer) uint64
	bytesRead         func(result unsafe.Pointer) uint64
	rowsWritten       func(result unsafe.Pointer) uint64
	bytesWritten      func(result unsafe.Pointer) uint64
}

// load binds the library and keeps its hands off the process's signals: its crash handlers
// wait for minutes before they let the process die.
func load(path string) (*engine, error) {
	lib, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("loading the ClickHouse engine (it needs glibc): %w", err)
	}
	e := &engine{}
	for name, fn := range map[string]any{
		"chdb_set_signal_handlers_enabled": &e.setSignalHandlers,
		"chdb_connect":                     &e.connectFn,
		"chdb_close_conn":                  &e.closeConn,
		"chdb_query_with_params_n":         &e.query,
		"chdb_stream_query_with_params_n":  &e.streamQuery,
		"chdb_stream_fetch_result":         &e.streamFetch,
		"chdb_stream_cancel_query":         &e.streamCancel,
		"chdb_stream_insert_with_params_n": &e.streamInsert,
		"chdb_stream_append":               &e.streamAppend,
		"chdb_stream_done":                 &e.streamDone,
		"chdb_stream_cancel_insert":        &e.cancelInsert,
		"chdb_stream_insert_error":         &e.insertError,
		"chdb_destroy_insert_stream":       &e.destroyInsert,
		"chdb_destroy_query_result":        &e.destroyResult,
		"chdb_result_buffer":               &e.resultBuffer,
		"chdb_result_length":               &e.resultLength,
		"chdb_result_error":                &e.resultError,
		"chdb_result_rows_read":            &e.rowsRead,
		"chdb_result_bytes_read":           &e.bytesRead,
		"chdb_result_rows_written":         &e.rowsWritten,
		"chdb_result_bytes_written":        &e.bytesWritten,
	} {
		address, err := purego.Dlsym(lib, name)
		if err != nil {
			return nil, fmt.Errorf("binding the ClickHouse engine: %w", err)
		}
		purego.RegisterFunc(fn, address)
	}
	e.setSignalHandlers(0)
	return e, nil
}

// param is one {name:Type} of a statement.
type param struct{ name, value string }

// stats are what a statement read and wrote.
type stats struct {
	readRows, readBytes, writtenRows, writtenBytes uint64
}

// queryError is an error of the engine, in its own words: "Code: 60. DB::Exception: …".
type queryError struct{ text string }

func (e *queryError) Error() string { return e.text }

// session is one connection to the engine: one statement at a time.
type session struct {
	e      *engine
	handle unsafe.Pointer // chdb_connection *
}

// connect opens a session; the first one starts the engine with the server's arguments.
func (e *engine) connect(args []string) (*session, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	argv := make([]unsafe.Pointer, len(args)+1)
	for i, a := range args {
		b := append([]byte(a), 0)
		pin.Pin(&b[0])
		argv[i] = unsafe.Pointer(&b[0]) //nolint:gosec // G103: an argument of the C interface, pinned
	}
	pin.Pin(&argv[0])
	h := e.connectFn(int32(len(args)), unsafe.Pointer(&argv[0])) //nolint:gosec // G115: a handful of arguments
	if h == nil || *(*unsafe.Pointer)(h) == nil {
		return nil, errors.New("the ClickHouse engine refused the connection (a data folder of another process, or a bad setting)")
	}
	return &session{e: e, handle: h}, nil
}

func (s *session) conn() unsafe.Pointer { return *(*unsafe.Pointer)(s.handle) }

func (s *session) close() { s.e.closeConn(s.handle) }

// call holds the C form of one statement; everything stays pinned until release.
type call struct {
	pin                                runtime.Pinner
	sql, format                        unsafe.Pointer
	sqlLen, formatLen                  uintptr
	names, nameLens, values, valueLens unsafe.Pointer
	n                                  uintptr
}

func newCall(sql, format string, params []param) *call {
	c := &call{n: uintptr(len(params))}
	c.sql, c.sqlLen = c.text(sql)
	c.format, c.formatLen = c.text(format)
	if len(params) == 0 {
		return c
	}
	names, values := make([]unsafe.Pointer, len(params)), make([]unsafe.Pointer, len(params))
	nameLens, valueLens := make([]uintptr, len(params)), make([]uintptr, len(params))
	for i, p := range params {
		names[i], nameLens[i] = c.text(p.name)
		values[i], valueLens[i] = c.text(p.value)
	}
	c.pin.Pin(&names[0])
	c.pin.Pin(&values[0])
	c.pin.Pin(&nameLens[0])
	c.pin.Pin(&valueLens[0])
	c.names, c.values = unsafe.Pointer(&names[0]), unsafe.Pointer(&values[0])             //nolint:gosec // G103: an argument of the C interface, pinned
	c.nameLens, c.valueLens = unsafe.Pointer(&nameLens[0]), unsafe.Pointer(&valueLens[0]) //nolint:gosec // G103: an argument of the C interface, pinned
	return c
}

// text copies a string with a NUL behind it: the library promises to use the length, its parser
// may look one byte further.
func (c *call) text(s string) (unsafe.Pointer, uintptr) {
	b := make([]byte, len(s)+1)
	copy(b, s)
	c.pin.Pin(&b[0])
	return unsafe.Pointer(&b[0]), uintptr(len(s)) //nolint:gosec // G103: an argument of the C interface, pinned
}

func (c *call) release() { c.pin.Unpin() }

// run executes a statement whose whole result fits into memory.
func (s *session) run(sql, format string, params []param, sink func([]byte) error) (stats, error) {
	c := newCall(sql, format, params)
	r := s.e.query(s.conn(), c.sql, c.sqlLen, c.format, c.formatLen, c.names, c.nameLens, c.values, c.valueLens, c.n)
	c.release()
	defer s.e.destroyResult(r)
	st := s.e.stats(r)
	if err := s.e.failure(r); err != nil {
		return st, err
	}
	return st, s.e.deliver(r, sink)
}

// stream executes a query and delivers its result block by block. Only Native output may be cut
// so: other formats have a head and a foot.
func (s *session) stream(sql, format string, params []param, sink func([]byte) error) (stats, error) {
	c := newCall(sql, format, params)
	h := s.e.streamQuery(s.conn(), c.sql, c.sqlLen, c.format, c.formatLen, c.names, c.nameLens, c.values, c.valueLens, c.n)
	c.release()
	defer s.e.destroyResult(h)
	if err := s.e.failure(h); err != nil {
		return stats{}, err
	}
	var st stats
	for {
		more, err := s.fetch(h, &st, sink)
		if err != nil {
			var failed *queryError
			if !errors.As(err, &failed) {
				s.e.streamCancel(s.conn(), h) // the reader is gone
			}
			return st, err
		}
		if !more {
			return st, nil
		}
	}
}

func (s *session) fetch(h unsafe.Pointer, st *stats, sink func([]byte) error) (bool, error) {
	r := s.e.streamFetch(s.conn(), h)
	defer s.e.destroyResult(r)
	if err := s.e.failure(r); err != nil {
		return false, err
	}
	if s.e.resultLength(r) == 0 {
		return false, nil
	}
	got := s.e.stats(r)
	st.readRows += got.readRows
	st.readBytes += got.readBytes
	return true, s.e.deliver(r, sink)
}

// insert executes an INSERT whose rows come from body in the given format.
func (s *session) insert(sql, format string, params []param, body io.Reader) (stats, error) {
	c := newCall(sql, format, params)
	h := s.e.streamInsert(s.conn(), c.sql, c.sqlLen, c.format, c.formatLen, c.names, c.nameLens, c.values, c.valueLens, c.n)
	c.release()
	defer s.e.destroyInsert(h)
	if err := s.insertFailure(h); err != nil {
		return stats{}, err
	}
	buf := make([]byte, 256<<10)
	var pin runtime.Pinner
	pin.Pin(&buf[0])
	defer pin.Unpin()
	for {
		n, err := io.ReadFull(body, buf)
		if n > 0 && s.e.streamAppend(h, unsafe.Pointer(&buf[0]), uintptr(n)) != 0 { //nolint:gosec // G103: the engine copies it
			break // done says why
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			s.e.cancelInsert(h)
			return stats{}, fmt.Errorf("reading the rows: %w", err)
		}
	}
	r := s.e.streamDone(h)
	defer s.e.destroyResult(r)
	st := s.e.stats(r)
	if err := s.e.failure(r); err != nil {
		return st, err
	}
	return st, s.insertFailure(h)
}

func (s *session) insertFailure(h unsafe.Pointer) error {
	if p := s.e.insertError(h); p != nil {
		return &queryError{text: text(p)}
	}
	return nil
}

func (e *engine) failure(r unsafe.Pointer) error {
	if r == nil {
		return &queryError{text: "Code: 1001. DB::Exception: the engine gave no result"}
	}
	if p := e.resultError(r); p != nil {
		return &queryError{text: text(p)}
	}
	return nil
}

func (e *engine) stats(r unsafe.Pointer) stats {
	if r == nil {
		return stats{}
	}
	return stats{readRows: e.rowsRead(r), readBytes: e.bytesRead(r), writtenRows: e.rowsWritten(r), writtenBytes: e.bytesWritten(r)}
}

// deliver passes the engine's memory on without a copy; the sink must not keep it.
func (e *engine) deliver(r unsafe.Pointer, sink func([]byte) error) error {
	n := e.resultLength(r)
	if n == 0 || sink == nil {
		return nil
	}
	return sink(unsafe.Slice((*byte)(e.resultBuffer(r)), n)) //nolint:gosec // G103: the engine owns it until the result is freed
}

// text copies a C string.
func text(p unsafe.Pointer) string {
	var b strings.Builder
	for i := 0; ; i++ {
		c := *(*byte)(unsafe.Add(p, i))
		if c == 0 {
			return b.String()
		}
		b.WriteByte(c)
	}
}
