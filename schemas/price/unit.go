package price

import "fmt"

// unit is something that has a price. Its index is its place in every table of this package.
type unit uint8

const (
	inputTokens unit = iota
	cacheReadTokens
	cacheWriteTokens
	cacheWrite1hTokens
	inputAudioTokens
	cacheAudioReadTokens
	inputImageTokens
	cacheImageReadTokens
	inputVideoTokens
	outputTokens
	reasoningTokens
	outputAudioTokens
	outputImageTokens
	outputVideoTokens
	citationTokens
	audioHours
	inputAudioHours
	requests
	webSearches
	storageSearches
	documentPages
	annotatedDocumentPages
	textMessages

	unitCount
)

// kind is a set of properties by which units are parts of each other: a unit is part of
// each unit whose properties are a subset of its own.
type kind uint16

const (
	isInput kind = 1 << iota
	isOutput
	isAudio
	isImage
	isVideo
	isCacheRead
	isCacheWrite
	isCache1h
	isReasoning
	isCitation
	isAnnotated
)

// Properties of one group exclude each other, as a token cannot be both image and audio.
var exclusive = [...]kind{
	isInput | isOutput,
	isAudio | isImage | isVideo,
	isCacheRead | isCacheWrite | isReasoning | isCitation,
}

// family separates quantities that have nothing in common.
type family uint8

const (
	tokens family = iota
	duration
	call
	webSearch
	storageSearch
	page
	message
)

// units is the one table of priced units. The names are those of events (proto Usage), except that durations
// are priced by the hour.
var units = [unitCount]struct {
	name   string
	family family
	kind   kind
}{
	inputTokens:            {"input_tokens", tokens, isInput},
	cacheReadTokens:        {"cache_read_tokens", tokens, isInput | isCacheRead},
	cacheWriteTokens:       {"cache_write_tokens", tokens, isInput | isCacheWrite},
	cacheWrite1hTokens:     {"cache_write_1h_tokens", tokens, isInput | isCacheWrite | isCache1h},
	inputAudioTokens:       {"input_audio_tokens", tokens, isInput | isAudio},
	cacheAudioReadTokens:   {"cache_audio_read_tokens", tokens, isInput | isAudio | isCacheRead},
	inputImageTokens:       {"input_image_tokens", tokens, isInput | isImage},
	cacheImageReadTokens:   {"cache_image_read_tokens", tokens, isInput | isImage | isCacheRead},
	inputVideoTokens:       {"input_video_tokens", tokens, isInput | isVideo},
	outputTokens:           {"output_tokens", tokens, isOutput},
	reasoningTokens:        {"reasoning_tokens", tokens, isOutput | isReasoning},
	outputAudioTokens:      {"output_audio_tokens", tokens, isOutput | isAudio},
	outputImageTokens:      {"output_image_tokens", tokens, isOutput | isImage},
	outputVideoTokens:      {"output_video_tokens", tokens, isOutput | isVideo},
	citationTokens:         {"citation_tokens", tokens, isOutput | isCitation},
	audioHours:             {"audio_hours", duration, isAudio},
	inputAudioHours:        {"input_audio_hours", duration, isAudio | isInput},
	requests:               {"requests", call, 0},
	webSearches:            {"web_searches", webSearch, 0},
	storageSearches:        {"storage_searches", storageSearch, 0},
	documentPages:          {"document_pages", page, isInput},
	annotatedDocumentPages: {"annotated_document_pages", page, isInput | isAnnotated},
	textMessages:           {"text_messages", message, isInput},
}

// msPerHour converts the price of an hour: durations are counted in milliseconds.
const msPerHour = 3_600_000

// unitNamed returns the unit of that name.
func unitNamed(name string) (unit, bool) {
	for u := range unitCount {
		if units[u].name == name {
			return u, true
		}
	}
	return 0, false
}

// partOf reports whether each u is also an of; a unit is no part of itself.
func (u unit) partOf(of unit) bool {
	return u != of && units[u].family == units[of].family && units[u].kind&units[of].kind == units[of].kind
}

// overlaps reports whether something can be both a and b, for example cached audio.
func overlaps(a, b unit) bool {
	if units[a].family != units[b].family {
		return false
	}
	both := units[a].kind | units[b].kind
	for _, group := range exclusive {
		if in := both & group; in&(in-1) != 0 {
			return false
		}
	}
	return true
}

// checkUnits reports whether a set of priced units has one price for everything that can be used: the total
// of each part, and each overlap of two parts, must be priced too, else a token would be charged twice or not at all.
func checkUnits(priced [unitCount]bool) error {
	for u := range unitCount {
		if !priced[u] {
			continue
		}
		for total := range unitCount {
			if u.partOf(total) && !priced[total] {
				return fmt.Errorf("%s is priced without %s", units[u].name, units[total].name)
			}
		}
		for other := range u {
			if priced[other] && overlaps(u, other) && !overlapPriced(priced, u, other) {
				return fmt.Errorf("%s and %s are priced without what is both", units[other].name, units[u].name)
			}
		}
	}
	return nil
}

func overlapPriced(priced [unitCount]bool, a, b unit) bool {
	for u := range unitCount {
		if priced[u] && units[u].family == units[a].family && units[u].kind == units[a].kind|units[b].kind {
			return true
		}
	}
	return false
}

// counts returns how much of each unit a usage has.
func (u Usage) counts() [unitCount]int64 {
	return [unitCount]int64{
		inputTokens:            u.InputTokens,
		cacheReadTokens:        u.CacheReadTokens,
		cacheWriteTokens:       u.CacheWriteTokens,
		cacheWrite1hTokens:     u.CacheWrite1hTokens,
		inputAudioTokens:       u.InputAudioTokens,
		cacheAudioReadTokens:   u.CacheAudioReadTokens,
		inputImageTokens:       u.InputImageTokens,
		cacheImageReadTokens:   u.CacheImageReadTokens,
		inputVideoTokens:       u.InputVideoTokens,
		outputTokens:           u.OutputTokens,
		reasoningTokens:        u.ReasoningTokens,
		outputAudioTokens:      u.OutputAudioTokens,
		outputImageTokens:      u.OutputImageTokens,
		outputVideoTokens:      u.OutputVideoTokens,
		citationTokens:         u.CitationTokens,
		audioHours:             u.AudioMilliseconds,
		inputAudioHours:        u.AudioMilliseconds,
		requests:               u.Requests,
		webSearches:            u.WebSearches,
		storageSearches:        u.StorageSearches,
		documentPages:          u.DocumentPages,
		annotatedDocumentPages: u.AnnotatedDocumentPages,
		textMessages:           u.TextMessages,
	}
}
