package call

// Maxima returns the fields by which a call may name its maximum of output tokens, the first being the one for a body that has none. Only what the
// API documents, in its own spelling, and the provider is known to obey stands here: servers ignore what they do not know, and a maximum that is
// ignored bounds nothing. For GeminiGenerate they stand in generationConfig.
func Maxima(api API, provider string) []string {
	switch api {
	case OpenAIChat:
		switch provider {
		case "openai", "azure":
			return chatMaxima // reasoning models refuse the older name, and most others know only that
		case "cerebras", "google", "groq", "openrouter", "x-ai":
			return olderFirst
		}
		return olderName
	case OpenAICompletions, AnthropicMessages:
		return olderName
	case OpenAIResponses:
		return responsesMaxima
	case GeminiGenerate:
		return geminiMaxima
	case Other, OpenAIEmbeddings, OpenAIImages, OpenAIAudio, GeminiEmbed, Free:
	}
	return nil
}

var (
	chatMaxima      = []string{"max_completion_tokens", "max_tokens"}
	olderFirst      = []string{"max_tokens", "max_completion_tokens"}
	olderName       = []string{"max_tokens"}
	responsesMaxima = []string{"max_output_tokens"}
	geminiMaxima    = []string{"maxOutputTokens", "max_output_tokens"}
)
