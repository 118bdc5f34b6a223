package usage_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/forward/usage"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/schemas/price"
)

// Answers as the providers document them: what is read, and what it costs. Costs are worked out by hand, in
// nano-USD: tokens × USD per million tokens × 1000.
func TestProvidersAnswersAreRead(t *testing.T) {
	var (
		chat      = price.Usage{InputTokens: 2006, CacheReadTokens: 1920, OutputTokens: 300, ReasoningTokens: 192}
		responses = price.Usage{InputTokens: 9000, CacheReadTokens: 4096, OutputTokens: 700, ReasoningTokens: 512, WebSearches: 2, StorageSearches: 1}
		messages  = price.Usage{
			InputTokens: 105 + 3000 + 7123, CacheReadTokens: 7123, CacheWriteTokens: 3000, CacheWrite1hTokens: 2000, OutputTokens: 250, WebSearches: 3,
		}
		generate = price.Usage{
			InputTokens: 2264 + 55, CacheReadTokens: 1100, OutputTokens: 400, ReasoningTokens: 300,
			InputAudioTokens: 500, CacheAudioReadTokens: 100, InputImageTokens: 258,
		}
		transcript = price.Usage{InputTokens: 14, InputAudioTokens: 10, OutputTokens: 101}
	)
	const (
		chatCost      = 86*150 + 1920*75 + 300*600                         // 0.15, cached 0.075, out 0.6
		responsesCost = 4904*1250 + 4096*125 + 700*10_000 + 2*1e7 + 25*1e5 // 1.25, cached 0.125, out 10, 0.01 a web search, 0.0025 a file search
		messagesCost  = 105*3000 + 1000*3750 + 2000*6000 + 7123*300 + 250*15_000 + 3*1e7
		// 400 of the audio are fresh at 1.00, 100 cached at 0.10; 1000 text cached at 0.03; the rest of 2319 is text and image at 0.30.
		generateCost   = 400*1000 + 100*100 + 1000*30 + 819*300 + 400*2500
		transcriptCost = 4*2500 + 10*6000 + 101*10_000
	)
	for _, tc := range []struct {
		file            string
		api             call.API
		provider, model string
		want            price.Usage
		nano            money.Nano
	}{
		{"openai_chat.json", call.OpenAIChat, "openai", "gpt-4o-mini", chat, chatCost},
		{"openai_chat_stream.sse", call.OpenAIChat, "openai", "gpt-4o-mini", chat, chatCost},
		{
			"openai_chat_audio.json", call.OpenAIChat, "openai", "gpt-4o-audio-preview",
			price.Usage{InputTokens: 120, InputAudioTokens: 100, OutputTokens: 90, OutputAudioTokens: 75},
			120*2500 + 90*10_000,
		},
		{"openai_responses.json", call.OpenAIResponses, "openai", "gpt-5", responses, responsesCost},
		{"openai_responses_stream.sse", call.OpenAIResponses, "openai", "gpt-5", responses, responsesCost},
		{"openai_embeddings.json", call.OpenAIEmbeddings, "openai", "text-embedding-3-small", price.Usage{InputTokens: 1500}, 1500 * 20},
		{
			"openai_images.json", call.OpenAIImages, "openai", "gpt-image-1",
			price.Usage{InputTokens: 350, InputImageTokens: 300, OutputTokens: 4160, OutputImageTokens: 4160},
			50*5000 + 300*10_000 + 4160*40_000,
		},
		{"openai_transcription.json", call.OpenAIAudio, "openai", "gpt-4o-transcribe", transcript, transcriptCost},
		{"openai_transcription_stream.sse", call.OpenAIAudio, "openai", "gpt-4o-transcribe", transcript, transcriptCost},
		{"openai_transcription_duration.json", call.OpenAIAudio, "openai", "whisper-1", price.Usage{AudioMilliseconds: 9000}, 9 * 360e6 / 3600},
		{"anthropic_messages.json", call.AnthropicMessages, "anthropic", "claude-sonnet-4-5", messages, messagesCost},
		{"anthropic_messages_stream.sse", call.AnthropicMessages, "anthropic", "claude-sonnet-4-5", messages, messagesCost},
		{"gemini_generate.json", call.GeminiGenerate, "google", "gemini-2.5-flash", generate, generateCost},
		{"gemini_stream.sse", call.GeminiGenerate, "google", "gemini-2.5-flash", generate, generateCost},
		{"gemini_stream.json", call.GeminiGenerate, "google", "gemini-2.5-flash", generate, generateCost},
		{
			"perplexity_deep_research.json", call.OpenAIChat, "perplexity", "sonar-deep-research",
			price.Usage{InputTokens: 33, OutputTokens: 7163 + 20016 + 73997, CitationTokens: 20016, ReasoningTokens: 73997, WebSearches: 18},
			33*2000 + 7163*8000 + 20016*2000 + 73997*3000 + 18*5e6,
		},
		{
			"deepseek_chat.json", call.OpenAIChat, "openai", "gpt-4o-mini",
			price.Usage{InputTokens: 1000, CacheReadTokens: 640, OutputTokens: 10},
			360*150 + 640*75 + 10*600,
		},
		{
			"xai_chat.json", call.OpenAIChat, "openai", "gpt-4o-mini",
			price.Usage{InputTokens: 37, CacheReadTokens: 8, OutputTokens: 202, ReasoningTokens: 200},
			29*150 + 8*75 + 202*600,
		},
	} {
		t.Run(tc.file, func(t *testing.T) {
			got, final := play(t, tc.api, tc.file)
			if diff := cmp.Diff(tc.want, got); diff != "" || !final {
				t.Fatalf("final %v, want/got: %s", final, diff)
			}
			p, err := price.Default().Find(price.Query{Provider: tc.provider, Model: tc.model, At: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)})
			if err != nil {
				t.Fatal(err)
			}
			if cost, err := p.Cost(got); err != nil || cost != tc.nano {
				t.Errorf("cost: got %d, %v; want %d", cost, err, tc.nano)
			}
		})
	}
}

// play gives a recorded answer to a meter as forward does.
func play(t *testing.T, api call.API, file string) (price.Usage, bool) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	m := usage.Meter{API: api}
	if filepath.Ext(file) == ".json" {
		m.Body(b)
		return m.Final()
	}
	for line := range bytes.Lines(b) {
		if data, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			m.Data(bytes.TrimSpace(data))
		}
	}
	m.End()
	return m.Final()
}

// A stream that is cut has no final usage, and what it did report is kept.
func TestCutStreamsAreEstimated(t *testing.T) {
	for _, tc := range []struct {
		file         string
		api          call.API
		lines        int
		input, least int64
	}{
		{"openai_chat_stream.sse", call.OpenAIChat, 4, 77, 1},
		{"openai_responses_stream.sse", call.OpenAIResponses, 5, 77, 2},
		{"anthropic_messages_stream.sse", call.AnthropicMessages, 11, 10_228, 2},
		{"gemini_stream.sse", call.GeminiGenerate, 2, 2264, 102},
	} {
		t.Run(tc.file, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join("testdata", tc.file))
			if err != nil {
				t.Fatal(err)
			}
			m := usage.Meter{API: tc.api}
			for i, line := range bytes.Split(b, []byte("\n")) {
				if data, ok := bytes.CutPrefix(line, []byte("data:")); ok && i < tc.lines {
					m.Data(bytes.TrimSpace(data))
				}
			}
			if _, final := m.Final(); final {
				t.Error("a cut stream has a final usage")
			}
			if u := m.Estimate(func() int64 { return 77 }); u.InputTokens != tc.input || u.OutputTokens < tc.least {
				t.Errorf("got %+v", u)
			}
		})
	}
}

// Providers' slips leave a usage that has a cost.
func TestInconsistentUsageStillHasACost(t *testing.T) {
	for name, body := range map[string]string{
		"cached and audio overlap": `{"usage":{"prompt_tokens":1000,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":900,"audio_tokens":300}}}`,
		"parts above the total":    `{"usage":{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":900,"audio_tokens":300,"image_tokens":5},"completion_tokens_details":{"reasoning_tokens":9,"audio_tokens":7}}}`,
		"negative and huge":        `{"usage":{"prompt_tokens":-5,"completion_tokens":1e300,"prompt_tokens_details":{"cached_tokens":-1}}}`,
		"texts for numbers":        `{"usage":{"prompt_tokens":"12","completion_tokens":null}}`,
	} {
		t.Run(name, func(t *testing.T) {
			m := usage.Meter{API: call.OpenAIChat}
			m.Body([]byte(body))
			u, final := m.Final()
			if !final {
				t.Fatal("not read")
			}
			for _, model := range []string{"gemini-2.0-flash", "gemini-2.5-flash"} {
				p, err := price.Default().Find(price.Query{Provider: "google", Model: model, At: time.Now()})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := p.Cost(u); err != nil {
					t.Errorf("%+v has no cost: %v", u, err)
				}
			}
		})
	}
}

// What is cached and audio at once counts once.
func TestOverlapIsFoundFromTheTotal(t *testing.T) {
	m := usage.Meter{API: call.OpenAIChat}
	m.Body([]byte(`{"usage":{"prompt_tokens":1000,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":900,"audio_tokens":300}}}`))
	want := price.Usage{InputTokens: 1000, CacheReadTokens: 900, InputAudioTokens: 300, CacheAudioReadTokens: 200, OutputTokens: 1}
	if got, _ := m.Final(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// OpenAI's newer models charge for what they write to their cache unasked, and say how much of the input it was.
func TestWritesToTheCacheAreRead(t *testing.T) {
	for api, body := range map[call.API]string{
		call.OpenAIChat:      `{"usage":{"prompt_tokens":1000,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":100,"cache_write_tokens":700}}}`,
		call.OpenAIResponses: `{"usage":{"input_tokens":1000,"output_tokens":1,"input_tokens_details":{"cached_tokens":100,"cache_write_tokens":700}}}`,
	} {
		m := usage.Meter{API: api}
		m.Body([]byte(body))
		want := price.Usage{InputTokens: 1000, CacheReadTokens: 100, CacheWriteTokens: 700, OutputTokens: 1}
		if got, _ := m.Final(); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// A compaction is a sampling of its own: its tokens are billed, and stand in no total.
func TestEachSamplingOfAnAnswerCounts(t *testing.T) {
	m := usage.Meter{API: call.AnthropicMessages}
	m.Body([]byte(`{"usage":{"input_tokens":23000,"output_tokens":1000,"iterations":[` +
		`{"type":"compaction","input_tokens":180000,"output_tokens":3500,"cache_read_input_tokens":5},{"type":"message","input_tokens":23000,"output_tokens":1000}]}}`))
	want := price.Usage{InputTokens: 203_005, CacheReadTokens: 5, OutputTokens: 4500}
	if got, _ := m.Final(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
