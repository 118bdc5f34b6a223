package usage

import (
	"strings"

	"github.com/tidwall/gjson"

	"github.com/rateguard/rateguard/schemas/price"
)

// maxTokens is the largest number that is believed. What is above it is nonsense and would overflow sums.
const maxTokens = 1 << 40

// number returns a field that is a number, 0 for another.
func number(u gjson.Result, field string) int64 {
	if v := u.Get(field); v.Type == gjson.Number {
		return clamp(v.Num)
	}
	return 0
}

func clamp(f float64) int64 {
	if !(f > 0) {
		return 0
	}
	if f > maxTokens {
		return maxTokens
	}
	return int64(f)
}

// members are those of one object, read once: providers have many names for the same number, and each would be another search.
type members []member

type member struct {
	name  string
	value gjson.Result
}

// usualMembers is more than what the providers' objects have today.
const usualMembers = 16

// appendMembers appends the members of an object.
func appendMembers(m members, object gjson.Result) members {
	if object.IsObject() {
		object.ForEach(func(name, value gjson.Result) bool {
			m = append(m, member{name.Str, value})
			return true
		})
	}
	return m
}

// get returns the first member of that name.
func (m members) get(name string) (value gjson.Result, ok bool) {
	for i := range m {
		if m[i].name == name {
			return m[i].value, true
		}
	}
	return gjson.Result{}, false
}

// number returns the first of the names that is a number.
func (m members) number(names ...string) int64 {
	for _, name := range names {
		if v, ok := m.get(name); ok && v.Type == gjson.Number {
			return clamp(v.Num)
		}
	}
	return 0
}

// object returns the first of the names that is an object.
func (m members) object(names ...string) gjson.Result {
	for _, name := range names {
		if v, ok := m.get(name); ok && v.IsObject() {
			return v
		}
	}
	return gjson.Result{}
}

// openAI reads the usage objects of chat completions, completions, embeddings (prompt_tokens …) and of responses, images and
// transcriptions (input_tokens …). Input includes what was cached.
func openAI(to *price.Usage, usage gjson.Result) {
	var room, inRoom, outRoom [usualMembers]member
	u := appendMembers(room[:0], usage)
	to.InputTokens = u.number("prompt_tokens", "input_tokens")
	to.OutputTokens = u.number("completion_tokens", "output_tokens")
	in := appendMembers(inRoom[:0], u.object("prompt_tokens_details", "input_tokens_details", "input_token_details"))
	out := appendMembers(outRoom[:0], u.object("completion_tokens_details", "output_tokens_details", "output_token_details"))
	to.CacheReadTokens = in.number("cached_tokens")
	if to.CacheReadTokens == 0 {
		to.CacheReadTokens = u.number("prompt_cache_hit_tokens") // DeepSeek
	}
	to.CacheWriteTokens = in.number("cache_write_tokens")
	to.InputAudioTokens = in.number("audio_tokens")
	to.InputImageTokens = in.number("image_tokens")
	to.OutputAudioTokens = out.number("audio_tokens")
	to.OutputImageTokens = out.number("image_tokens")
	to.ReasoningTokens = out.number("reasoning_tokens")
	if r := to.ReasoningTokens; r > 0 && u.number("total_tokens") == to.InputTokens+to.OutputTokens+r {
		to.OutputTokens += r // xAI counts reasoning beside the completion
	}
	if s, ok := u.get("num_search_queries"); ok { // Perplexity counts thoughts and citations beside the completion
		to.WebSearches, to.CitationTokens = clamp(s.Num), u.number("citation_tokens")
		to.ReasoningTokens = max(to.ReasoningTokens, u.number("reasoning_tokens"))
		to.OutputTokens += to.CitationTokens + to.ReasoningTokens
	}
	if s, _ := u.get("seconds"); s.Type == gjson.Number {
		to.AudioMilliseconds = clamp(s.Num * 1000)
	}
}

// searches counts the calls of paid tools among the output items of a response.
func searches(to *price.Usage, output gjson.Result) {
	if !strings.Contains(output.Raw, "_search_call") {
		return
	}
	output.ForEach(func(_, item gjson.Result) bool {
		switch item.Get("type").Str {
		case "web_search_call":
			to.WebSearches++
		case "file_search_call":
			to.StorageSearches++
		}
		return true
	})
}

// anthropic reads the usage of messages. input_tokens leaves the cache out there; ours includes it. Later events of a
// stream repeat some fields, cumulative.
func anthropic(to *price.Usage, u gjson.Result) {
	fresh := to.InputTokens - to.CacheReadTokens - to.CacheWriteTokens
	iterations := u.Get("iterations")
	set := func(field string, n *int64) {
		if v := u.Get(field); v.Type == gjson.Number {
			*n = clamp(v.Num)
		}
		if !iterations.IsArray() {
			return
		}
		var all int64 // of each sampling; the totals leave out those that only compact
		iterations.ForEach(func(_, each gjson.Result) bool {
			all = min(all+clamp(each.Get(field).Num), maxTokens)
			return true
		})
		*n = max(*n, all)
	}
	set("input_tokens", &fresh)
	set("cache_read_input_tokens", &to.CacheReadTokens)
	set("cache_creation_input_tokens", &to.CacheWriteTokens)
	set("cache_creation.ephemeral_1h_input_tokens", &to.CacheWrite1hTokens)
	set("output_tokens", &to.OutputTokens)
	set("server_tool_use.web_search_requests", &to.WebSearches)
	to.InputTokens = fresh + to.CacheReadTokens + to.CacheWriteTokens
}

// gemini reads usageMetadata. Thoughts stand beside the candidates there, and are output here.
func gemini(to *price.Usage, u gjson.Result) {
	to.InputTokens = number(u, "promptTokenCount") + number(u, "toolUsePromptTokenCount")
	to.CacheReadTokens = number(u, "cachedContentTokenCount")
	to.ReasoningTokens = number(u, "thoughtsTokenCount")
	to.OutputTokens = number(u, "candidatesTokenCount") + to.ReasoningTokens
	modalities(u.Get("promptTokensDetails"), &to.InputAudioTokens, &to.InputImageTokens, &to.InputVideoTokens)
	var cachedVideo int64
	modalities(u.Get("cacheTokensDetails"), &to.CacheAudioReadTokens, &to.CacheImageReadTokens, &cachedVideo)
	modalities(u.Get("candidatesTokensDetails"), &to.OutputAudioTokens, &to.OutputImageTokens, &to.OutputVideoTokens)
}

func modalities(details gjson.Result, audio, image, video *int64) {
	*audio, *image, *video = 0, 0, 0
	details.ForEach(func(_, d gjson.Result) bool {
		n := number(d, "tokenCount")
		switch d.Get("modality").Str {
		case "AUDIO":
			*audio += n
		case "IMAGE":
			*image += n
		case "VIDEO":
			*video += n
		}
		return true
	})
}

// sane makes every part fit its total, because a provider's slip must not leave a call without a cost: a total grows to hold its parts.
func sane(u *price.Usage) {
	u.CacheWriteTokens = max(u.CacheWriteTokens, u.CacheWrite1hTokens)
	u.InputAudioTokens = max(u.InputAudioTokens, u.CacheAudioReadTokens)
	u.InputImageTokens = max(u.InputImageTokens, u.CacheImageReadTokens)
	u.CacheReadTokens = max(u.CacheReadTokens, u.CacheAudioReadTokens+u.CacheImageReadTokens)
	media, cached := u.InputAudioTokens+u.InputImageTokens+u.InputVideoTokens, u.CacheReadTokens+u.CacheWriteTokens
	u.InputTokens = max(u.InputTokens, media, cached)
	// What is cached and media at once is told by some providers only in that both do not fit beside each other.
	both := media + cached - u.InputTokens - u.CacheAudioReadTokens - u.CacheImageReadTokens
	both -= overlap(&u.CacheAudioReadTokens, both, u.InputAudioTokens, u.CacheReadTokens-u.CacheImageReadTokens)
	both -= overlap(&u.CacheImageReadTokens, both, u.InputImageTokens, u.CacheReadTokens-u.CacheAudioReadTokens)
	u.InputTokens += max(0, both)
	u.OutputTokens = max(u.OutputTokens, u.ReasoningTokens, u.OutputAudioTokens+u.OutputImageTokens+u.OutputVideoTokens)
}

// overlap raises n by as much of want as both limits allow, and returns by how much.
func overlap(n *int64, want int64, limits ...int64) int64 {
	for _, l := range limits {
		want = min(want, l-*n)
	}
	want = max(0, want)
	*n += want
	return want
}
