package call

// CountBody is our own count of a JSON body's tokens, for calls whose provider reports none: its strings, keys included, as CountText counts them.
func CountBody(body []byte) int64 {
	var n int64
	inString, start := false, 0
	for i := 0; i < len(body); i++ {
		switch {
		case inString && body[i] == '\\':
			i++
		case body[i] != '"':
		case inString:
			n += CountText(body[start:min(i, len(body))])
			inString = false
		default:
			inString, start = true, i+1
		}
	}
	return max(n, 1)
}

// opaque is the length from which a text without a blank is taken for encoded media and not for words.
const opaque = 1024

// mediaTokens is what one piece of encoded media counts.
const mediaTokens = 1000

// CountText estimates the tokens of a text: one for each four ASCII bytes, one for each other character. It is what the
// tokenizers of today come to within some 20 % for prose; encoded media counts as a flat number.
func CountText[T string | []byte](text T) int64 {
	var ascii, other int64
	blank := false
	for i := range len(text) {
		switch ch := text[i]; {
		case ch < 0x80:
			ascii++
			blank = blank || ch == ' '
		case ch >= 0xc0: // the first byte of a character
			other++
		}
	}
	if ascii > opaque && !blank && other == 0 {
		return mediaTokens
	}
	return (ascii+3)/4 + other
}
