package price

import (
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Usage is what one call consumed, in whole units. Subsets are counted in their
// totals too: InputTokens holds cache reads and writes, audio, image and video input;
// OutputTokens holds reasoning, audio, image, video and citations. Zero means none.
type Usage struct {
	InputTokens            int64
	CacheReadTokens        int64
	CacheWriteTokens       int64
	CacheWrite1hTokens     int64 // part of CacheWriteTokens
	OutputTokens           int64
	ReasoningTokens        int64
	InputAudioTokens       int64
	CacheAudioReadTokens   int64 // part of InputAudioTokens and of CacheReadTokens
	OutputAudioTokens      int64
	InputImageTokens       int64
	CacheImageReadTokens   int64 // part of InputImageTokens and of CacheReadTokens
	OutputImageTokens      int64
	InputVideoTokens       int64
	OutputVideoTokens      int64
	CitationTokens         int64
	AudioMilliseconds      int64
	Requests               int64 // priced calls count as one also when this is zero
	WebSearches            int64
	StorageSearches        int64
	DocumentPages          int64
	AnnotatedDocumentPages int64 // part of DocumentPages
	TextMessages           int64
}

// Proto returns the usage as it stands in events.
func (u Usage) Proto() *rateguardv1.Usage {
	return &rateguardv1.Usage{
		InputTokens:            u.InputTokens,
		CacheReadTokens:        u.CacheReadTokens,
		CacheWriteTokens:       u.CacheWriteTokens,
		CacheWrite_1HTokens:    u.CacheWrite1hTokens,
		OutputTokens:           u.OutputTokens,
		ReasoningTokens:        u.ReasoningTokens,
		InputAudioTokens:       u.InputAudioTokens,
		CacheAudioReadTokens:   u.CacheAudioReadTokens,
		OutputAudioTokens:      u.OutputAudioTokens,
		InputImageTokens:       u.InputImageTokens,
		CacheImageReadTokens:   u.CacheImageReadTokens,
		OutputImageTokens:      u.OutputImageTokens,
		InputVideoTokens:       u.InputVideoTokens,
		OutputVideoTokens:      u.OutputVideoTokens,
		CitationTokens:         u.CitationTokens,
		AudioMilliseconds:      u.AudioMilliseconds,
		Requests:               u.Requests,
		WebSearches:            u.WebSearches,
		StorageSearches:        u.StorageSearches,
		DocumentPages:          u.DocumentPages,
		AnnotatedDocumentPages: u.AnnotatedDocumentPages,
		TextMessages:           u.TextMessages,
	}
}

// UsageFromProto returns the usage of an event; nil gives the zero Usage.
func UsageFromProto(p *rateguardv1.Usage) Usage {
	return Usage{
		InputTokens:            p.GetInputTokens(),
		CacheReadTokens:        p.GetCacheReadTokens(),
		CacheWriteTokens:       p.GetCacheWriteTokens(),
		CacheWrite1hTokens:     p.GetCacheWrite_1HTokens(),
		OutputTokens:           p.GetOutputTokens(),
		ReasoningTokens:        p.GetReasoningTokens(),
		InputAudioTokens:       p.GetInputAudioTokens(),
		CacheAudioReadTokens:   p.GetCacheAudioReadTokens(),
		OutputAudioTokens:      p.GetOutputAudioTokens(),
		InputImageTokens:       p.GetInputImageTokens(),
		CacheImageReadTokens:   p.GetCacheImageReadTokens(),
		OutputImageTokens:      p.GetOutputImageTokens(),
		InputVideoTokens:       p.GetInputVideoTokens(),
		OutputVideoTokens:      p.GetOutputVideoTokens(),
		CitationTokens:         p.GetCitationTokens(),
		AudioMilliseconds:      p.GetAudioMilliseconds(),
		Requests:               p.GetRequests(),
		WebSearches:            p.GetWebSearches(),
		StorageSearches:        p.GetStorageSearches(),
		DocumentPages:          p.GetDocumentPages(),
		AnnotatedDocumentPages: p.GetAnnotatedDocumentPages(),
		TextMessages:           p.GetTextMessages(),
	}
}
