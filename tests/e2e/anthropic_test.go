package e2e_test

import (
	"net/http"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/oracle"
)

func claude(s *harness.System, key string) anthropic.Client {
	return anthropic.NewClient(option.WithBaseURL(s.ProxyURL), option.WithAPIKey(key), option.WithMaxRetries(0))
}

func message() anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: "claude-sonnet-4-5", MaxTokens: 64,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(question))},
	}
}

// claudeTokens counts cached tokens as input, which Anthropic does not.
func claudeTokens(u anthropic.Usage, output int64) oracle.Tokens {
	return oracle.Tokens{
		Input:     u.InputTokens + u.CacheReadInputTokens + u.CacheCreationInputTokens,
		CacheRead: u.CacheReadInputTokens, CacheWrite: u.CacheCreationInputTokens, Output: output,
	}
}

func TestAnthropicMessage(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	client := claude(s, tenant.Key)
	var raw *http.Response
	answer, err := client.Messages.New(t.Context(), message(), option.WithResponseInto(&raw))
	if err != nil {
		t.Fatalf("calling: %v", err)
	}
	wantCost(t, tenant, raw.Header.Get("X-Request-Id"), "claude-sonnet-4-5", claudeTokens(answer.Usage, answer.Usage.OutputTokens))
}

func TestAnthropicStream(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	client := claude(s, tenant.Key)
	var raw *http.Response
	stream := client.Messages.NewStreaming(t.Context(), message(), option.WithResponseInto(&raw))
	var start anthropic.Usage
	var output int64
	for stream.Next() {
		switch event := stream.Current().AsAny().(type) {
		case anthropic.MessageStartEvent:
			start = event.Message.Usage
		case anthropic.MessageDeltaEvent:
			output = event.Usage.OutputTokens
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatalf("streaming: %v", err)
	}
	if output == 0 {
		t.Error("no output was counted")
	}
	wantCost(t, tenant, raw.Header.Get("X-Request-Id"), "claude-sonnet-4-5", claudeTokens(start, output))
}
