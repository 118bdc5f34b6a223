package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/forward/upstream"
)

// server is a listener that gives each request of a connection to answer, until that returns false.
type server struct {
	addr  string
	conns atomic.Int64
	// closed has a value for each connection that the server has closed.
	closed chan struct{}
}

func serve(t *testing.T, answer func(c net.Conn, head string, br *bufio.Reader) bool) *server {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: l.Addr().String(), closed: make(chan struct{}, 100)}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				br := bufio.NewReader(c)
				for {
					var head strings.Builder
					for {
						line, err := br.ReadString('\n')
						if err != nil {
							_ = c.Close()
							return
						}
						if line == "\r\n" {
							break
						}
						head.WriteString(line)
					}
					if !answer(c, head.String(), br) {
						_ = c.Close()
						s.closed <- struct{}{}
						return
					}
				}
			})
		}
	})
	return s
}

// answers is a server that always says the same.
func answers(t *testing.T, text string, keep bool) *server {
	return serve(t, func(c net.Conn, _ string, _ *bufio.Reader) bool {
		_, _ = io.WriteString(c, text)
		return keep
	})
}

func request(addr, method string) *upstream.Request {
	return &upstream.Request{
		Address: addr, Method: method, Target: "/x", Head: []byte("Host: test\r\n"), FirstByte: 2 * time.Second, Idle: 2 * time.Second,
	}
}

type result struct {
	status int
	length int64
	fields []upstream.Field
	body   string
	sent   bool
}

func do(t *testing.T, c *upstream.Client, r *upstream.Request) (out result, err error) {
	t.Helper()
	ex, err := c.Connect(t.Context(), r)
	if err != nil {
		return out, err
	}
	defer ex.Close()
	err = ex.Do(r)
	out.sent = ex.Sent()
	if err != nil {
		return out, err
	}
	out.status, out.length, out.fields = ex.Status, ex.ContentLength, ex.Fields
	b := make([]byte, 7) // smaller than most bodies here
	for {
		n, err := ex.Read(b)
		out.body += string(b[:n])
		if err == io.EOF { //nolint:errorlint // Read says it bare
			return out, nil
		}
		if err != nil {
			return out, err
		}
	}
}

func TestAnswersAreFramedAsHTTPSays(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for name, tc := range map[string]struct {
		method, answer string
		status         int
		body           string
		// err is what goes wrong, nil for a whole answer.
		err error
		// again says that the connection serves the next request.
		again bool
		// closes says that the server closes behind its answer.
		closes bool
	}{
		"length":                  {"POST", ok + "Content-Length: 11\r\n\r\nhello world", 200, "hello world", nil, true, false},
		"length 0":                {"POST", ok + "Content-Length: 0\r\n\r\n", 200, "", nil, true, false},
		"chunks":                  {"POST", ok + "Transfer-Encoding: chunked\r\n\r\n5;ext=\"1\"\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", 200, "hello world", nil, true, false},
		"chunks with trailers":    {"POST", ok + "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n", 200, "hello", nil, true, false},
		"until the end":           {"POST", ok + "\r\nhello", 200, "hello", nil, false, true},
		"HTTP/1.0":                {"POST", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", nil, false, false},
		"says close":              {"POST", ok + "Connection: Keep-Alive, close\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", nil, false, false},
		"no reason":               {"POST", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", 200, "ok", nil, true, false},
		"HEAD":                    {"HEAD", ok + "Content-Length: 500\r\n\r\n", 200, "", nil, true, false},
		"204":                     {"POST", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", nil, true, false},
		"204 with a body":         {"POST", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", 204, "", nil, false, false},
		"304":                     {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, "", nil, true, false},
		"interim answers":         {"POST", "HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\n" + ok + "Content-Length: 2\r\n\r\nok", 200, "ok", nil, true, false},
		"bytes behind the answer": {"POST", ok + "Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 200, "ok", nil, false, false},
		"length and chunks":       {"POST", ok + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "hello", nil, false, false},
		"same length twice":       {"POST", ok + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, "ok", nil, true, false},

		"two lengths":                {"POST", ok + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!", 0, "", upstream.ErrProtocol, false, false},
		"list of lengths":            {"POST", ok + "Content-Length: 2, 2\r\n\r\nok", 0, "", upstream.ErrProtocol, false, false},
		"signed length":              {"POST", ok + "Content-Length: +2\r\n\r\nok", 0, "", upstream.ErrProtocol, false, false},
		"negative zero":              {"POST", ok + "Content-Length: -0\r\n\r\n", 0, "", upstream.ErrProtocol, false, false},
		"hexadecimal length":         {"POST", ok + "Content-Length: 0x2\r\n\r\nok", 0, "", upstream.ErrProtocol, false, false},
		"empty length":               {"POST", ok + "Content-Length:\r\n\r\nok", 0, "", upstream.ErrProtocol, false, false},
		"folded length":              {"POST", ok + "Content-Length: 2\r\n 3\r\n\r\nok", 0, "", upstream.ErrProtocol, false, false},
		"unknown encoding":           {"POST", ok + "Transfer-Encoding: gzip, chunked\r\n\r\n", 0, "", upstream.ErrProtocol, false, false},
		"encoded twice":              {"POST", ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 0, "", upstream.ErrProtocol, false, false},
		"space before the colon":     {"POST", ok + "Content-Length : 2\r\n\r\nok", 0, "", upstream.ErrProtocol, false, false},
		"fold of no header":          {"POST", ok + " x: y\r\n\r\n", 0, "", upstream.ErrProtocol, false, false},
		"bare CR in a value":         {"POST", ok + "X-A: a\rSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok", 0, "", upstream.ErrProtocol, false, false},
		"NUL in a value":             {"POST", ok + "X-A: a\x00b\r\nContent-Length: 2\r\n\r\nok", 0, "", upstream.ErrProtocol, false, false},
		"no header":                  {"POST", ok + "nonsense\r\n\r\n", 0, "", upstream.ErrProtocol, false, false},
		"switches protocols":         {"POST", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 0, "", upstream.ErrProtocol, false, false},
		"endless interim answers":    {"POST", strings.Repeat("HTTP/1.1 103 E\r\n\r\n", 50), 0, "", upstream.ErrProtocol, false, false},
		"endless head":               {"POST", ok + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 300), 0, "", upstream.ErrProtocol, false, false},
		"endless header line":        {"POST", ok + "X-A: " + strings.Repeat("a", 300<<10), 0, "", upstream.ErrProtocol, false, false},
		"another protocol":           {"POST", "SSH-2.0-x\r\n\r\n", 0, "", upstream.ErrProtocol, false, false},
		"chunk of nothing":           {"POST", ok + "Transfer-Encoding: chunked\r\n\r\n\r\n", 200, "", upstream.ErrProtocol, false, false},
		"chunk of letters":           {"POST", ok + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 200, "", upstream.ErrProtocol, false, false},
		"negative chunk":             {"POST", ok + "Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n", 200, "", upstream.ErrProtocol, false, false},
		"chunk with two sizes":       {"POST", ok + "Transfer-Encoding: chunked\r\n\r\n5 6\r\nhello\r\n", 200, "", upstream.ErrProtocol, false, false},
		"chunk of 16 digits":         {"POST", ok + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", 200, "", upstream.ErrProtocol, false, false},
		"chunk longer than its size": {"POST", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n", 200, "hello", upstream.ErrProtocol, false, false},
		"endless size of a chunk":    {"POST", ok + "Transfer-Encoding: chunked\r\n\r\n5;" + strings.Repeat("x", 20<<10), 200, "", upstream.ErrProtocol, false, false},
		"endless trailer":            {"POST", ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("A: b\r\n", 200), 200, "", upstream.ErrProtocol, false, false},
		"cut body":                   {"POST", ok + "Content-Length: 11\r\n\r\nhello", 200, "hello", io.ErrUnexpectedEOF, false, true},
		"cut chunk":                  {"POST", ok + "Transfer-Encoding: chunked\r\n\r\nb\r\nhello", 200, "hello", io.ErrUnexpectedEOF, false, true},
		"cut behind a chunk":         {"POST", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 200, "hello", io.ErrUnexpectedEOF, false, true},
		"cut trailer":                {"POST", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", 200, "hello", io.ErrUnexpectedEOF, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := answers(t, tc.answer, !tc.closes)
			c := upstream.New(upstream.Config{})
			defer c.CloseIdle(true)
			got, err := do(t, c, request(s.addr, tc.method))
			if !errors.Is(err, tc.err) || got.status != tc.status || got.body != tc.body || !got.sent {
				t.Fatalf("got %d %q, %v, sent %v; want %d %q, %v", got.status, got.body, err, got.sent, tc.status, tc.body, tc.err)
			}
			if tc.err != nil {
				return
			}
			if _, err := do(t, c, request(s.addr, tc.method)); err != nil {
				t.Fatalf("second request: %v", err)
			}
			if used := s.conns.Load() == 1; used != tc.again {
				t.Errorf("connection is used again: %v, want %v", used, tc.again)
			}
		})
	}
}

// A connection that died while it was idle, or on which something came that nobody asked for, is not used.
func TestDeadConnectionsAreNotUsed(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for name, late := range map[string]string{"closed": "", "unasked bytes": answer} {
		t.Run(name, func(t *testing.T) {
			back := make(chan struct{})
			s := serve(t, func(c net.Conn, _ string, _ *bufio.Reader) bool {
				_, _ = io.WriteString(c, answer)
				<-back // the answer is read, the connection idle
				_, _ = io.WriteString(c, late)
				return false
			})
			client := upstream.New(upstream.Config{})
			defer client.CloseIdle(true)
			for range 5 {
				got, err := do(t, client, request(s.addr, "POST"))
				if err != nil || got.body != "ok" {
					t.Fatalf("got %q, %v", got.body, err)
				}
				back <- struct{}{}
				<-s.closed
			}
			if n := s.conns.Load(); n != 5 {
				t.Errorf("got %d connections for 5 requests, want 5", n)
			}
		})
	}
}

func TestIdleConnectionsAreBounded(t *testing.T) {
	var mu sync.Mutex
	waiting, all := 0, make(chan struct{})
	s := serve(t, func(c net.Conn, _ string, _ *bufio.Reader) bool {
		mu.Lock()
		if waiting++; waiting == 4 {
			close(all)
		}
		mu.Unlock()
		<-all
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		return true
	})
	c := upstream.New(upstream.Config{MaxIdlePerHost: 2})
	defer c.CloseIdle(true)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := do(t, c, request(s.addr, "POST")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for range 2 {
		if _, err := do(t, c, request(s.addr, "POST")); err != nil {
			t.Error(err)
		}
	}
	if n := s.conns.Load(); n != 4 {
		t.Errorf("got %d connections, want the first 4 and no more", n)
	}
	c.CloseIdle(true)
	if _, err := do(t, c, request(s.addr, "POST")); err != nil || s.conns.Load() != 5 {
		t.Errorf("after closing all: %d connections, %v; want 5", s.conns.Load(), err)
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Proto, r.TLS.ServerName)
	}))
	defer s.Close()
	s.Config.ErrorLog = nil
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	r := request(s.Listener.Addr().String(), "GET")
	r.TLS = true
	trusting := upstream.New(upstream.Config{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}})
	defer trusting.CloseIdle(true)
	for range 2 {
		if got, err := do(t, trusting, r); err != nil || got.body != "HTTP/1.1" {
			t.Errorf("own CA: got %q, %v", got.body, err)
		}
	}
	got, err := do(t, upstream.New(upstream.Config{}), r)
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) || got.sent {
		t.Errorf("system's roots: got %v, sent %v; want an unknown authority, nothing sent", err, got.sent)
	}
	named := upstream.New(upstream.Config{TLS: &tls.Config{RootCAs: roots, ServerName: "wrong.test", MinVersion: tls.VersionTLS12}})
	var host x509.HostnameError
	if _, err := do(t, named, r); !errors.As(err, &host) {
		t.Errorf("wrong name: got %v", err)
	}
}

// An upstream that answers before it has read the body is heard, whatever the size; nothing of the rest leaks into the next request.
func TestEarlyAnswers(t *testing.T) {
	for _, size := range []int{1 << 10, 32 << 10, 64 << 10, 8 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			s := answers(t, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", true)
			c := upstream.New(upstream.Config{})
			defer c.CloseIdle(true)
			for range 2 {
				r := request(s.addr, "POST")
				r.Body = bytes.Repeat([]byte("GET /evil HTTP/1.1\nHost: x\n"), size/27)
				if got, err := do(t, c, r); err != nil || got.status != 413 || got.body != "no" {
					t.Errorf("got %d %q, %v", got.status, got.body, err)
				}
			}
		})
	}
}

func TestTimeouts(t *testing.T) {
	for name, first := range map[string]string{"no head": "", "no body": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(c net.Conn, _ string, _ *bufio.Reader) bool {
				_, _ = io.WriteString(c, first)
				return true
			})
			r := request(s.addr, "POST")
			r.FirstByte, r.Idle = 50*time.Millisecond, 50*time.Millisecond
			if _, err := do(t, upstream.New(upstream.Config{}), r); !errors.Is(err, upstream.ErrTimeout) {
				t.Errorf("got %v, want a time-out", err)
			}
		})
	}
}

// An answer may last for longer than a silence in it may, however its pieces are cut: here each chunk's end comes with the next one's beginning.
func TestAnAnswerOutlastsTheBoundOfASilence(t *testing.T) {
	const silence = time.Second
	for name, head := range map[string]string{"chunks": "Transfer-Encoding: chunked", "length": "Content-Length: 12", "to the end": "Connection: close"} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(c net.Conn, _ string, _ *bufio.Reader) bool {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head+"\r\n\r\n")
				pace := time.NewTicker(silence / 8)
				defer pace.Stop()
				for i := range 12 {
					<-pace.C
					switch {
					case name != "chunks":
						_, _ = io.WriteString(c, "x")
					case i < 11:
						_, _ = io.WriteString(c, "1\r\nx\r")
						<-pace.C
						_, _ = io.WriteString(c, "\n")
					default:
						_, _ = io.WriteString(c, "1\r\nx\r\n0\r\n\r\n")
					}
				}
				return false
			})
			r := request(s.addr, "POST")
			r.FirstByte, r.Idle = silence, silence
			if got, err := do(t, upstream.New(upstream.Config{}), r); err != nil || got.body != strings.Repeat("x", 12) {
				t.Errorf("got %q, %v", got.body, err)
			}
		})
	}
}

// CancelAt ends a wait, and the cancelled connection is not the next one's.
func TestCancelEndsAWait(t *testing.T) {
	var once sync.Once
	reached := make(chan struct{})
	s := serve(t, func(c net.Conn, head string, _ *bufio.Reader) bool {
		if strings.Contains(head, "/hang") {
			once.Do(func() { close(reached) })
			return true
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		return true
	})
	c := upstream.New(upstream.Config{})
	defer c.CloseIdle(true)
	r := request(s.addr, "GET")
	r.Target, r.FirstByte = "/hang", time.Hour
	ex, err := c.Connect(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-reached
		ex.CancelAt(time.Now())
	}()
	if err := ex.Do(r); !errors.Is(err, upstream.ErrTimeout) || !ex.Sent() {
		t.Errorf("got %v, sent %v", err, ex.Sent())
	}
	ex.Close()
	if got, err := do(t, c, request(s.addr, "GET")); err != nil || got.body != "ok" {
		t.Errorf("next request: %q, %v", got.body, err)
	}
}
