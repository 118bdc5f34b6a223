package mockprovider

import (
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// dialect is a provider's way to speak.
type dialect string

const (
	openAI    dialect = "openai"
	anthropic dialect = "anthropic"
	gemini    dialect = "gemini"
	generic   dialect = "http"
)

// obj is a JSON object under construction.
type obj = map[string]any

// call is one request while it is answered, by one goroutine.
type call struct {
	p       *Provider
	w       http.ResponseWriter
	r       *http.Request
	dialect dialect
	path    string
	body    gjson.Result
	// raw is the body as it came.
	raw   []byte
	model string
	// hash of seed, model and prompt decides everything that is random in an answer. It does
	// not see settings that a gateway may add, so that the answer is the same with and without one.
	hash  uint64
	fault fault
	pace  Pace
	// record is written by this call alone until ledger.end.
	record *Record
}

func (p *Provider) newCall(w http.ResponseWriter, r *http.Request) (*call, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	d, path := route(r.URL.Path)
	c := &call{p: p, w: w, r: r, dialect: d, path: path, raw: raw, pace: p.config.Pace}
	if d != generic {
		c.body = gjson.ParseBytes(raw)
	}
	c.model = c.body.Get("model").String()
	if d == gemini {
		c.model = geminiModel(path)
	}
	c.hash = c.seed()
	c.record = &Record{
		RequestID: r.Header.Get("X-Request-Id"), IdempotencyKey: r.Header.Get("Idempotency-Key"), TraceParent: r.Header.Get("Traceparent"),
		ReceivedAt: time.Now().UTC(), Provider: string(d), Method: r.Method, Path: path, Model: c.model,
		Stream: c.streams(), BodyBytes: int64(len(raw)),
	}
	n := p.calls.Add(1)
	c.record.ID = fmt.Sprintf("req_%016x%08x", mix(c.hash, uint64(c.record.ReceivedAt.UnixNano())), n)
	if c.fault, err = c.chooseFault(); err != nil {
		return nil, err
	}
	if s := r.Header.Get("X-Mock-Pace"); s != "" {
		if c.pace, err = ParsePace(s); err != nil {
			return nil, err
		}
	}
	if c.fault.kind == faultSlow {
		c.pace.FirstToken, c.pace.TokensPerSecond = 10*max(c.pace.FirstToken, 200*time.Millisecond), 10
	}
	c.record.Fault = c.fault.String()
	c.p.ledger.begin(c.record)
	return c, nil
}

// seed hashes what the answer is to depend on.
func (c *call) seed() uint64 {
	h := fnv.New64a()
	model, _, _ := strings.Cut(c.model, faultSuffix)
	_, _ = fmt.Fprintf(h, "%d\x00%s\x00%s\x00", c.p.config.Seed, c.dialect, model)
	for _, name := range []string{"messages", "input", "prompt", "contents", "system", "instructions"} {
		_, _ = io.WriteString(h, c.body.Get(name).Raw)
	}
	return mix(h.Sum64(), 1)
}

// mix makes a number from two, well spread (the finalizer of splitmix64).
func mix(a, b uint64) uint64 {
	z := a + b*0x9e3779b97f4a7c15
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}

func (c *call) streams() bool {
	if c.dialect == gemini {
		return strings.HasSuffix(c.path, ":streamGenerateContent")
	}
	return c.body.Get("stream").Bool()
}

// serve checks the request and answers it.
func (c *call) serve() {
	if !c.authorized() {
		c.fail(http.StatusUnauthorized, "the credential is missing or wrong")
		return
	}
	c.limitHeaders()
	switch {
	case c.fault.kind == faultStatus:
		if c.fault.status == http.StatusTooManyRequests || c.fault.status == http.StatusServiceUnavailable {
			c.w.Header().Set("Retry-After", "1")
			c.w.Header().Set("Retry-After-Ms", "1000")
		}
		c.fail(c.fault.status, "injected failure "+strconv.Itoa(c.fault.status))
	case c.fault.kind == faultHang:
		c.wait(hangLimit)
		c.abort()
	case c.fault.kind == faultReset:
		c.abort()
	case c.dialect == generic:
		c.serveGeneric()
	case len(c.raw) > 0 && !gjson.ValidBytes(c.raw):
		c.fail(http.StatusBadRequest, "the body is not valid JSON")
	case c.dialect == anthropic:
		c.serveAnthropic()
	case c.dialect == gemini:
		c.serveGemini()
	default:
		c.serveOpenAI()
	}
}

// authorized checks the credential. A key of the gateway itself is never right here.
func (c *call) authorized() bool {
	bearer := strings.TrimPrefix(c.r.Header.Get("Authorization"), "Bearer ")
	var got string
	switch c.dialect {
	case openAI:
		got = first(bearer, c.r.Header.Get("Api-Key"))
	case anthropic:
		got = first(c.r.Header.Get("X-Api-Key"), bearer)
	case gemini:
		got = first(c.r.Header.Get("X-Goog-Api-Key"), c.r.URL.Query().Get("key"), bearer)
	default:
		got = first(bearer, c.r.Header.Get("X-Api-Key"))
	}
	for _, v := range []string{bearer, c.r.Header.Get("X-Api-Key"), c.r.Header.Get("Api-Key"), c.r.Header.Get("X-Goog-Api-Key"), c.r.URL.Query().Get("key")} {
		if strings.HasPrefix(v, "rg_") {
			c.record.LeakedKey = true
			return false
		}
	}
	if c.p.config.Credential == "" {
		return got != "" || c.dialect == generic
	}
	return got == c.p.config.Credential
}

// first returns the first of the values that is not empty.
func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// wait returns false when the client left or the server stops before the time is over.
func (c *call) wait(d time.Duration) bool {
	if d <= 0 {
		return c.r.Context().Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.r.Context().Done():
		return false
	case <-c.p.stop:
		// A slow answer still ends as it would have; only hanging ones give up. Slow ones are
		// bounded by the server's own time to close.
		if c.fault.kind == faultHang || c.fault.kind == faultStall {
			return false
		}
	}
	select {
	case <-t.C:
		return true
	case <-c.r.Context().Done():
		return false
	}
}
