package e2e_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"

	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/oracle"
)

const question = "Say what a ledger is, in one sentence."

func openAI(s *harness.System, key string) openai.Client {
	return openai.NewClient(option.WithBaseURL(s.ProxyURL+"/v1"), option.WithAPIKey(key), option.WithMaxRetries(0))
}

func chat(model string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:     model,
		Messages:  []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)},
		MaxTokens: openai.Int(64),
	}
}

// wantCost compares the row of a request with what the oracle makes of the usage that the SDK saw.
func wantCost(t *testing.T, tenant *harness.Tenant, id, model string, used oracle.Tokens) {
	t.Helper()
	want, err := oracle.Nano(model, used)
	if err != nil {
		t.Fatal(err)
	}
	row := tenant.Request(id)
	if got := harness.Nano(t, row.CostUSD); got != want {
		t.Errorf("cost of %s with %+v: got %d nano-USD, want %d", model, used, got, want)
	}
	if row.Estimated {
		t.Errorf("cost of %s is marked estimated though the provider told the usage", model)
	}
	if row.InputTokens != used.Input || row.OutputTokens != used.Output || row.CachedTokens != used.CacheRead {
		t.Errorf("tokens of %s: got %d/%d/%d, want %+v", model, row.InputTokens, row.CachedTokens, row.OutputTokens, used)
	}
	if row.KeyID != tenant.KeyID || row.Model != model || row.Status != http.StatusOK {
		t.Errorf("row of %s: got key %s, model %s, status %d", model, row.KeyID, row.Model, row.Status)
	}
}

func tokens(u openai.CompletionUsage) oracle.Tokens {
	return oracle.Tokens{Input: u.PromptTokens, CacheRead: u.PromptTokensDetails.CachedTokens, Output: u.CompletionTokens}
}

func TestOpenAIChat(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	client := openAI(s, tenant.Key)
	var raw *http.Response
	answer, err := client.Chat.Completions.New(t.Context(), chat("gpt-4o-mini"), option.WithResponseInto(&raw))
	if err != nil {
		t.Fatalf("calling: %v", err)
	}
	if answer.Choices[0].Message.Content == "" {
		t.Error("the answer has no content")
	}
	wantCost(t, tenant, raw.Header.Get("X-Request-Id"), "gpt-4o-mini", tokens(answer.Usage))
	row := tenant.Request(raw.Header.Get("X-Request-Id"))
	if got := raw.Header.Get("X-Rateguard-Cost-Usd"); got != *row.CostUSD {
		t.Errorf("cost header: got %s, want %s as in the log", got, *row.CostUSD)
	}
}

func TestOpenAIStream(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	client := openAI(s, tenant.Key)
	for name, asked := range map[string]bool{"usage asked for": true, "usage not asked for": false} {
		t.Run(name, func(t *testing.T) {
			params := chat("gpt-4o")
			if asked {
				params.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
			}
			var raw *http.Response
			stream := client.Chat.Completions.NewStreaming(t.Context(), params, option.WithResponseInto(&raw))
			var text string
			var usage openai.CompletionUsage
			for stream.Next() {
				chunk := stream.Current()
				if len(chunk.Choices) == 0 && !asked {
					t.Errorf("a chunk without choices reached a client that did not ask for usage: %s", chunk.RawJSON())
				}
				for _, c := range chunk.Choices {
					text += c.Delta.Content
				}
				if chunk.Usage.TotalTokens > 0 {
					usage = chunk.Usage
				}
			}
			if err := stream.Err(); err != nil {
				t.Fatalf("streaming: %v", err)
			}
			if text == "" {
				t.Error("the stream has no content")
			}
			id := raw.Header.Get("X-Request-Id")
			if !asked {
				row := tenant.Request(id)
				usage.PromptTokens, usage.CompletionTokens, usage.PromptTokensDetails.CachedTokens = row.InputTokens, row.OutputTokens, row.CachedTokens
			}
			if usage.CompletionTokens == 0 {
				t.Error("no usage")
			}
			wantCost(t, tenant, id, "gpt-4o", tokens(usage))
			if !tenant.Request(id).Stream {
				t.Error("the row is not marked as a stream")
			}
		})
	}
}

func TestOpenAIResponsesAndEmbeddings(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	client := openAI(s, tenant.Key)
	var raw *http.Response
	response, err := client.Responses.New(t.Context(), responses.ResponseNewParams{
		Model: "gpt-4.1-mini", MaxOutputTokens: openai.Int(64),
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(question)},
	}, option.WithResponseInto(&raw))
	if err != nil {
		t.Fatalf("calling responses: %v", err)
	}
	wantCost(t, tenant, raw.Header.Get("X-Request-Id"), "gpt-4.1-mini", oracle.Tokens{
		Input: response.Usage.InputTokens, CacheRead: response.Usage.InputTokensDetails.CachedTokens, Output: response.Usage.OutputTokens,
	})
	embedding, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{
		Model: "text-embedding-3-small", Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String(question)},
	}, option.WithResponseInto(&raw))
	if err != nil {
		t.Fatalf("calling embeddings: %v", err)
	}
	wantCost(t, tenant, raw.Header.Get("X-Request-Id"), "text-embedding-3-small", oracle.Tokens{Input: embedding.Usage.PromptTokens})
}

func TestOpenAISDKMapsAnUnknownKey(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	client := openAI(s, "rg_unknown")
	_, err := client.Chat.Completions.New(t.Context(), chat("gpt-4o-mini"))
	var refused *openai.Error
	if !errors.As(err, &refused) {
		t.Fatalf("got %v, want an *openai.Error", err)
	}
	if refused.StatusCode != http.StatusUnauthorized || refused.Code != "invalid_api_key" {
		t.Errorf("got %d %s, want 401 invalid_api_key", refused.StatusCode, refused.Code)
	}
}
