package clickhouse

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// requestBody undoes the body's encodings: HTTP's Content-Encoding outside, ClickHouse's own frames inside.
func requestBody(r *http.Request, framed bool) (io.Reader, error) {
	var body io.Reader = r.Body
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(body)
		if errors.Is(err, io.EOF) {
			return strings.NewReader(""), nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the gzip body: %w", err)
		}
		body = z
	case "zstd":
		z, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("reading the zstd body: %w", err)
		}
		body = z.IOReadCloser()
	case "lz4":
		body = lz4.NewReader(body)
	default:
		return nil, &queryError{text: "Code: 48. DB::Exception: Content-Encoding " + encoding + " is not supported. (NOT_IMPLEMENTED)"}
	}
	if framed {
		body = &frameReader{r: compress.NewReader(body)}
	}
	return body, nil
}

// frameReader ends cleanly between two frames, which its source reports as a wrapped EOF.
type frameReader struct{ r io.Reader }

// Read returns decompressed bytes.
func (f *frameReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// answer is the response of one request: compressed as asked for, with the headers sent at the
// first byte so that an error before it can still have a status.
type answer struct {
	w       http.ResponseWriter
	format  string
	tag     string
	frame   *compress.Writer // ClickHouse's own frames; nil without
	wrapped io.WriteCloser   // HTTP's Content-Encoding; nil without
	begun   bool
}

func newAnswer(w http.ResponseWriter, r *http.Request, q request) *answer {
	a := &answer{w: w, format: q.format, tag: newTag()}
	if q.reserved["compress"] == "1" {
		method := compress.LZ4
		if strings.EqualFold(q.settings["network_compression_method"], "zstd") {
			method = compress.ZSTD
		}
		a.frame = compress.NewWriter(0, method)
	}
	if q.reserved["enable_http_compression"] == "1" {
		switch accept := r.Header.Get("Accept-Encoding"); {
		case strings.Contains(accept, "gzip"):
			w.Header().Set("Content-Encoding", "gzip")
			a.wrapped = gzip.NewWriter(w)
		case strings.Contains(accept, "lz4"):
			w.Header().Set("Content-Encoding", "lz4")
			a.wrapped = lz4.NewWriter(w)
		}
	}
	return a
}

// Write sends bytes of the result.
func (a *answer) Write(p []byte) (int, error) {
	a.begin()
	out := p
	if a.frame != nil {
		if err := a.frame.Compress(p); err != nil {
			return 0, fmt.Errorf("compressing the result: %w", err)
		}
		out = a.frame.Data
	}
	if a.wrapped != nil {
		if _, err := a.wrapped.Write(out); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	if _, err := a.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (a *answer) begin() {
	if a.begun {
		return
	}
	a.begun = true
	h := a.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-ClickHouse-Format", a.format)
	h.Set("X-ClickHouse-Exception-Tag", a.tag)
	a.w.WriteHeader(http.StatusOK)
}

// end completes a good answer.
func (a *answer) end() error {
	a.begin()
	if a.wrapped != nil {
		return a.wrapped.Close()
	}
	return nil
}

// fail sends an error: with a status before the first byte, as a marked block inside the result after it.
func (a *answer) fail(err error) {
	text := errorText(err)
	if !a.begun {
		h := a.w.Header()
		h.Del("Content-Encoding")
		h.Del("X-ClickHouse-Summary")
		h.Set("X-ClickHouse-Exception-Code", errorCode(text))
		h.Set("Content-Type", "text/plain; charset=UTF-8")
		a.w.WriteHeader(statusOf(text))
		_, _ = io.WriteString(a.w, text+"\n")
		return
	}
	block := fmt.Sprintf("\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n", a.tag, text, len(text)+1, a.tag)
	out := io.Writer(a.w)
	if a.wrapped != nil {
		out = a.wrapped
	}
	_, _ = io.WriteString(out, block)
	if a.wrapped != nil {
		_ = a.wrapped.Close()
	}
}
