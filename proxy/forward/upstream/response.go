package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strconv"
	"strings"
)

// Field is one header field; the name is canonical.
type Field struct{ Name, Value string }

// Response is the head of an answer.
type Response struct {
	Status int
	Fields []Field
	// ContentLength is -1 when the length is not known before the end.
	ContentLength int64
	// mustClose says that the connection cannot be used again.
	mustClose bool
}

// maxHead is the largest head of an answer in bytes.
const maxHead = 256 << 10

// Get returns the first field of the canonical name, empty when there is none.
func (r *Response) Get(name string) string {
	for i := range r.Fields {
		if r.Fields[i].Name == name {
			return r.Fields[i].Value
		}
	}
	return ""
}

// readHead reads heads until one is no interim answer, and finds out how its body ends.
func (e *Exchange) readHead(br *bufio.Reader, method string) error {
	for range 10 {
		if err := e.readOne(br); err != nil {
			return err
		}
		if e.Status == 101 {
			return fmt.Errorf("%w: it switched protocols unasked", ErrProtocol)
		}
		if e.Status >= 200 {
			return e.frame(method)
		}
	}
	return fmt.Errorf("%w: endless interim answers", ErrProtocol)
}

// readOne reads one head, in one allocation where it is in the buffer already.
func (e *Exchange) readOne(br *bufio.Reader) error {
	var head []byte
	fields, fresh := -1, true // fresh: a line begins here
	for {
		part, err := br.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if err == io.EOF && len(head)+len(part) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("reading the answer: %w", err)
		}
		if head == nil {
			head = make([]byte, 0, min(len(part)+br.Buffered(), readBuffer))
		}
		if len(head)+len(part) > maxHead {
			return fmt.Errorf("%w: head of the answer is too large", ErrProtocol)
		}
		if fresh && err == nil && len(trimLine(part)) == 0 {
			if fields < 0 {
				return fmt.Errorf("%w: no status line", ErrProtocol)
			}
			return e.parse(string(head), fields)
		}
		head = append(head, part...)
		if fresh = err == nil; fresh {
			fields++
		}
	}
}

func (e *Exchange) parse(head string, fields int) error {
	line, rest, _ := strings.Cut(head, "\n")
	line = strings.TrimSuffix(line, "\r")
	if len(line) < 12 || !strings.HasPrefix(line, "HTTP/1.") || line[8] != ' ' {
		return fmt.Errorf("%w: bad status line", ErrProtocol)
	}
	status, err := strconv.Atoi(line[9:12])
	if err != nil || status < 100 || status > 999 || len(line) > 12 && line[12] != ' ' {
		return fmt.Errorf("%w: bad status line", ErrProtocol)
	}
	e.Status, e.mustClose = status, line[7] == '0'
	e.Fields = make([]Field, 0, fields)
	for len(rest) > 0 {
		line, rest, _ = strings.Cut(rest, "\n")
		line = strings.TrimSuffix(line, "\r")
		if line == "" {
			break
		}
		if line[0] == ' ' || line[0] == '\t' {
			if len(e.Fields) == 0 {
				return fmt.Errorf("%w: continuation of no header", ErrProtocol)
			}
			f := &e.Fields[len(e.Fields)-1]
			f.Value += " " + strings.Trim(line, " \t")
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if strings.ContainsAny(value, "\r\x00") {
			return fmt.Errorf("%w: control characters in a header", ErrProtocol)
		}
		if !ok || name == "" || !validName(name) {
			return fmt.Errorf("%w: bad header", ErrProtocol)
		}
		e.Fields = append(e.Fields, Field{canonical(name), strings.Trim(value, " \t")})
	}
	return nil
}

// validName keeps out what could smuggle a header to the client.
func validName(s string) bool {
	for i := range len(s) {
		if ch := s[i]; ch <= ' ' || ch >= 0x7f || ch == '(' || ch == ')' || ch == ',' || ch == '/' || ch == ';' {
			return false
		}
	}
	return true
}

// frame decides how the body ends.
func (e *Exchange) frame(method string) error {
	length, chunked, hasTE := int64(-1), false, false
	for i := range e.Fields {
		f := &e.Fields[i]
		switch f.Name {
		case "Content-Length":
			n, err := strconv.ParseInt(f.Value, 10, 64)
			if err != nil || n < 0 || f.Value[0] == '+' || f.Value[0] == '-' || length >= 0 && length != n {
				return fmt.Errorf("%w: bad Content-Length", ErrProtocol)
			}
			length = n
		case "Transfer-Encoding":
			if !strings.EqualFold(f.Value, "chunked") || hasTE {
				return fmt.Errorf("%w: unsupported Transfer-Encoding", ErrProtocol)
			}
			hasTE, chunked = true, true
		case "Connection":
			for token := range strings.SplitSeq(f.Value, ",") {
				if token = strings.TrimSpace(token); strings.EqualFold(token, "close") {
					e.mustClose = true
				}
			}
		}
	}
	e.ContentLength = length
	switch {
	case method == "HEAD" || e.Status == 204 || e.Status == 304:
		e.state = bodyNone
		// A body that must not be here may come all the same, later, as somebody else's answer.
		e.mustClose = e.mustClose || e.Status == 204 && (chunked || length > 0)
	case chunked:
		// A length beside chunks is how answers are smuggled: the connection is not used again.
		e.mustClose = e.mustClose || length >= 0
		e.ContentLength = -1
		e.state = bodyChunks
	case length == 0:
		e.state = bodyDone
	case length > 0:
		e.state, e.left = bodyLength, length
	default:
		e.state, e.mustClose = bodyToClose, true
	}
	return nil
}

func trimLine(line []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte{'\n'}), []byte{'\r'})
}

// canonical returns the canonical form of a name without allocating for the usual ones.
func canonical(name string) string {
	if c, ok := names[name]; ok {
		return c
	}
	return textproto.CanonicalMIMEHeaderKey(name)
}

// names are the usual headers of providers' answers, as they write them.
var names = func() map[string]string {
	m := make(map[string]string)
	for _, n := range []string{
		"Content-Type", "Content-Length", "Date", "Connection", "Transfer-Encoding", "Server", "Cache-Control", "Vary", "Via",
		"Set-Cookie", "Content-Encoding", "Strict-Transport-Security", "X-Request-Id", "Request-Id", "Cf-Ray", "Cf-Cache-Status", "Alt-Svc",
		"Openai-Organization", "Openai-Processing-Ms", "Openai-Version", "Openai-Project", "X-Content-Type-Options", "Access-Control-Expose-Headers",
		"X-Ratelimit-Limit-Requests", "X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Remaining-Tokens",
		"X-Ratelimit-Reset-Requests", "X-Ratelimit-Reset-Tokens", "X-Envoy-Upstream-Service-Time", "Keep-Alive",
	} {
		m[n], m[strings.ToLower(n)] = n, n
	}
	return m
}()
