package price

// Unknown is the count of Declared which says that the call may use the tool and
// nobody knows how often.
const Unknown int64 = -1

// Declared is what a call declares before it is sent. Its zero value declares
// nothing and narrows nothing: a flag is set only by a caller who is certain, and a
// forgotten one makes the bound larger, never smaller.
type Declared struct {
	// InputTokens is an upper bound of all input. A text byte is at least one token;
	// a caller adds what the provider itself puts in front (tool prompts).
	InputTokens int64
	// HiddenInput says that part of the input cannot be seen or its bytes do not bound its tokens:
	// stored prompts, conversations, files, URLs, images, retrieval. Input is then bounded by the context window.
	HiddenInput bool
	// MaxOutputTokens bounds the output of one choice, reasoning included. 0: not declared, so the context window bounds it.
	MaxOutputTokens int64
	// ExtraOutputTokens come on top of that maximum, once for all choices: predicted output that the model rejects, thinking with a budget of its own.
	ExtraOutputTokens int64
	// N is the number of choices (n, best_of, candidates); 0 counts as 1.
	N int64

	// TextOnlyInput and TextOnlyOutput exclude audio, image and video tokens.
	TextOnlyInput  bool
	TextOnlyOutput bool
	// NoCacheWrite excludes writes to the prompt cache, NoCacheWrite1h only those that live for an hour.
	NoCacheWrite   bool
	NoCacheWrite1h bool

	// Requests is the number of priced requests; 0 counts as 1.
	Requests int64
	// Tool uses: 0 says that the call cannot use the tool, Unknown that it may without limit. A model that has no price for web searches
	// may make none unless it is priced by the request: what they cost is then not known.
	WebSearches     int64
	StorageSearches int64
	// Quantities of models that are priced by them: 0 (not declared) and Unknown leave such a model unbounded.
	AudioMilliseconds int64
	DocumentPages     int64
	TextMessages      int64
}
