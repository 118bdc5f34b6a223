package mockprovider

import (
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// Output tokens of an answer that the request does not bound.
const (
	leastOutput  = 24
	outputSpread = 160
)

// cacheStep is the granularity of OpenAI's prompt cache, and its smallest prompt is cacheMin.
const (
	cacheStep = 128
	cacheMin  = 1024
)

// decide returns the usage of an answer of at most limit output tokens (0: no limit), and
// whether the limit cut it. It depends on seed and prompt alone; x-mock-usage overrides parts
// of it: "input=1200,cached=1024,cache_write=0,cache_write_1h=0,output=7,reasoning=0".
func (c *call) decide(input, limit int64) (u Usage, cut bool) {
	u.Input = input
	u.Output = leastOutput + int64(mix(c.hash, 2)%outputSpread)
	if c.reasons() {
		u.Reasoning = 16 + int64(mix(c.hash, 3)%128)
		u.Output += u.Reasoning
	}
	switch {
	case c.dialect == anthropic:
		c.cacheByMark(&u)
	case input >= cacheMin && mix(c.hash, 4)%2 == 0:
		u.Cached = input / cacheStep * cacheStep
	}
	c.override(&u)
	if limit > 0 && u.Output > limit {
		u.Output, cut = limit, true
		u.Reasoning = min(u.Reasoning, limit)
	}
	return u, cut
}

// cacheByMark is Anthropic's way: nothing is cached unless the request marks it.
func (c *call) cacheByMark(u *Usage) {
	marked := strings.Count(c.body.Raw, `"cache_control"`)
	if marked == 0 || u.Input < 16 {
		return
	}
	part := u.Input / 4 * 3
	if mix(c.hash, 4)%2 == 0 {
		u.Cached = part
		return
	}
	u.CacheWrite = part
	if strings.Contains(c.body.Raw, `"1h"`) {
		u.CacheWrite1h = part
	}
}

func (c *call) reasons() bool {
	for _, prefix := range []string{"o1", "o3", "o4", "gpt-5", "gemini-2.5-pro"} {
		if strings.HasPrefix(c.model, prefix) {
			return true
		}
	}
	return false
}

func (c *call) override(u *Usage) {
	header := c.r.Header.Get("X-Mock-Usage")
	if header == "" {
		return
	}
	fields := map[string]*int64{
		"input": &u.Input, "cached": &u.Cached, "cache_write": &u.CacheWrite, "cache_write_1h": &u.CacheWrite1h,
		"output": &u.Output, "reasoning": &u.Reasoning,
	}
	for part := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if f, n := fields[name], parseCount(value); f != nil && n >= 0 {
			*f = n
		}
	}
}

// parseCount returns -1 for what is no count.
func parseCount(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// countTokens counts the strings in a value as a tokenizer would on average: four bytes a token.
func countTokens(v gjson.Result) int64 {
	var bytes int64
	var walk func(gjson.Result)
	walk = func(v gjson.Result) {
		switch {
		case v.Type == gjson.String:
			bytes += int64(len(v.Str))
		case v.IsArray() || v.IsObject():
			v.ForEach(func(_, child gjson.Result) bool { walk(child); return true })
		}
	}
	walk(v)
	return (bytes + 3) / 4
}

// text returns n tokens of text, a word a token: the same for the same hash.
func text(hash uint64, n int64) []string {
	out := make([]string, n)
	for i := range out {
		w := words[mix(hash, uint64(i)+16)%uint64(len(words))]
		if i > 0 {
			w = " " + w
		}
		out[i] = w
	}
	return out
}

// words has characters of one to four bytes, so that whoever cuts a stream into pieces meets them.
var words = strings.Fields(`a the every one ledger entry balance is was holds records counts before after when
	and or but not money cost price token request answer stream event log truth exactly once never twice
	sum total debit credit account book page line naïve café übung œuvre 日本 帳簿 ✓ — 🧾 “quote” it's fine.`)
