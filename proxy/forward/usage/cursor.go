package usage

import (
	"bytes"

	"github.com/tidwall/gjson"

	"github.com/rateguard/rateguard/proxy/call"
)

// cursor walks JSON once, front to back, without copying. A stream has hundreds of small chunks, and looking one thing up after
// the other in each of them costs more than everything else the proxy does with it. Whatever the cursor does not expect makes it
// bad, and the chunk is read by the general parser: it is a shortcut, not a second opinion.
type cursor struct {
	b   []byte
	i   int
	bad bool
	// texts is how many strings were counted, from and to where the last of them stands.
	texts    int
	from, to int
}

// mould is what the chunks of a stream have in common: most differ from the one before in nothing but one plain string.
type mould struct{ head, tail []byte }

// fill returns the string that the chunk has where the last one had its own, ok only if all else is the same.
func (m *mould) fill(data []byte) (text []byte, ok bool) {
	if len(m.head) == 0 || len(data) < len(m.head)+len(m.tail) || !bytes.HasPrefix(data, m.head) || !bytes.HasSuffix(data, m.tail) {
		return nil, false
	}
	text = data[len(m.head) : len(data)-len(m.tail)]
	return text, bytes.IndexByte(text, '"') < 0 && bytes.IndexByte(text, '\\') < 0
}

// take makes the mould of a chunk whose only counted string stands there, quotes included.
func (m *mould) take(data []byte, from, to int) {
	m.head = append(m.head[:0], data[:from+1]...)
	m.tail = append(m.tail[:0], data[to-1:]...)
}

// next skips blanks and returns the byte that follows, 0 at the end.
func (c *cursor) next() byte {
	for c.i < len(c.b) {
		switch ch := c.b[c.i]; ch {
		case ' ', '\t', '\r', '\n':
			c.i++
		default:
			return ch
		}
	}
	return 0
}

// enter goes into an object or array.
func (c *cursor) enter(open byte) bool {
	if c.bad || c.next() != open {
		c.bad = true
		return false
	}
	c.i++
	return true
}

// member goes to the value of the next member; at the end of the object it leaves it and returns false.
func (c *cursor) member() (key []byte, ok bool) {
	if !c.element('}') {
		return nil, false
	}
	raw := c.text()
	if c.bad || c.next() != ':' || bytes.IndexByte(raw, '\\') >= 0 {
		c.bad = true
		return nil, false
	}
	c.i++
	return raw[1 : len(raw)-1], true
}

// element goes to the next element; at the closing byte it leaves the array or object and returns false.
func (c *cursor) element(closing byte) bool {
	if c.bad {
		return false
	}
	ch := c.next()
	if ch == ',' {
		c.i++
		ch = c.next()
	}
	if ch == closing {
		c.i++
		return false
	}
	c.bad = ch == 0
	return !c.bad
}

// text returns the string that begins here, quotes included.
func (c *cursor) text() []byte {
	if c.bad || c.next() != '"' {
		c.bad = true
		return nil
	}
	start := c.i
	if n := bytes.IndexByte(c.b[start+1:], '"'); n >= 0 && bytes.IndexByte(c.b[start+1:start+1+n], '\\') < 0 {
		c.i = start + n + 2
		return c.b[start:c.i]
	}
	for c.i++; c.i < len(c.b); c.i++ {
		switch c.b[c.i] {
		case '\\':
			c.i++
		case '"':
			c.i++
			return c.b[start:c.i]
		}
	}
	c.bad = true
	return nil
}

// value returns the value that begins here, as it stands there.
func (c *cursor) value() []byte {
	if c.bad {
		return nil
	}
	first := c.next()
	start := c.i
	switch first {
	case '"':
		return c.text()
	case '{', '[':
		for depth := 0; c.i < len(c.b); {
			switch c.b[c.i] {
			case '"':
				if c.text(); c.bad {
					return nil
				}
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			c.i++
			if depth == 0 {
				return c.b[start:c.i]
			}
		}
	default:
		for ; c.i < len(c.b); c.i++ {
			switch c.b[c.i] {
			case ',', '}', ']', ' ', '\t', '\r', '\n':
				c.bad = c.i == start
				return c.b[start:c.i]
			}
		}
	}
	c.bad = true
	return nil
}

// tokens counts the string that begins here as CountText counts what it stands for.
func (c *cursor) tokens() int64 {
	raw := c.text()
	if c.bad {
		return 0
	}
	c.texts++
	c.from, c.to = c.i-len(raw), c.i
	if bytes.IndexByte(raw, '\\') >= 0 {
		return call.CountText(gjson.ParseBytes(raw).Str)
	}
	return call.CountText(raw[1 : len(raw)-1])
}

// chatChunk reads one chunk of a chat or, with text, of a completion: our count of what it carries, and its usage as it
// stands there. c.bad says that the general parser has to read it.
func (c *cursor) chatChunk(text bool) (n int64, usage []byte) {
	c.enter('{')
	choices := false
	for {
		key, more := c.member()
		if !more {
			return n, usage
		}
		switch {
		case string(key) == "choices" && !choices:
			choices = true
			n = c.choices(text)
		case string(key) == "usage" && usage == nil:
			usage = c.value()
		default:
			c.value()
		}
	}
}

func (c *cursor) choices(text bool) (n int64) {
	c.enter('[')
	for c.element(']') {
		c.enter('{')
		seen := false
		for {
			key, more := c.member()
			if !more {
				break
			}
			switch {
			case text && !seen && string(key) == "text" && c.next() == '"':
				seen = true
				n += c.tokens()
			case !text && !seen && string(key) == "delta" && c.next() != 'n': // null
				seen = true
				n += c.delta()
			default:
				c.value()
			}
		}
	}
	return n
}

func (c *cursor) delta() (n int64) {
	c.enter('{')
	for {
		key, more := c.member()
		if !more {
			return n
		}
		switch first := c.next(); {
		case string(key) == "role":
			c.value()
		case first == '"':
			n += c.tokens()
		case first == '[': // tool calls
			c.texts += 2 // no mould
			if raw := c.value(); !c.bad {
				n += call.CountBody(raw)
			}
		default:
			c.value()
		}
	}
}
