package mockprovider

import (
	"net/http"
	"strings"
)

// geminiModel returns the model of a path such as /v1beta/models/gemini-2.5-flash:generateContent.
func geminiModel(path string) string {
	_, rest, ok := strings.Cut(path, "/models/")
	if !ok {
		return ""
	}
	model, _, _ := strings.Cut(rest, ":")
	return model
}

func (c *call) serveGemini() {
	_, verb, _ := strings.Cut(c.path, ":")
	switch {
	case c.r.Method == http.MethodGet && strings.HasSuffix(c.path, "/models"):
		list := []obj{}
		for _, m := range models[gemini] {
			list = append(list, obj{"name": "models/" + m, "displayName": m, "supportedGenerationMethods": []string{"generateContent", "countTokens"}})
		}
		c.finish(http.StatusOK, "application/json", encode(obj{"models": list}))
	case c.model == "" || strings.HasPrefix(c.model, "no-such"):
		c.fail(http.StatusNotFound, "models/"+c.model+" is not found")
	case verb == "countTokens":
		c.finish(http.StatusOK, "application/json", encode(obj{"totalTokens": c.geminiInput()}))
	case verb == "embedContent":
		c.finish(http.StatusOK, "application/json", encode(obj{"embedding": obj{"values": []float64{0.25, -0.5, 0.75}}}))
	case verb != "generateContent" && verb != "streamGenerateContent":
		c.fail(http.StatusNotFound, "no method "+verb)
	case !c.body.Get("contents").Exists():
		c.fail(http.StatusBadRequest, "* GenerateContentRequest.contents: contents is not specified")
	default:
		c.serveGenerate()
	}
}

func (c *call) geminiInput() int64 {
	return countTokens(c.body.Get("contents")) + countTokens(c.body.Get("systemInstruction")) + countTokens(c.body.Get("tools"))
}

// generated returns one GenerateContentResponse; output is what was produced so far.
func (c *call) generated(content, reason string, u Usage) obj {
	candidate := obj{"index": 0, "content": obj{"role": "model", "parts": []obj{{"text": content}}}}
	if reason != "" {
		candidate["finishReason"] = reason
	}
	body := obj{
		"candidates": []obj{candidate}, "modelVersion": c.model, "responseId": strings.TrimPrefix(c.record.ID, "req_"),
	}
	if c.fault.kind == faultNoUsage {
		return body
	}
	// candidatesTokenCount leaves thoughts out, as Gemini does.
	usage := obj{"promptTokenCount": u.Input, "candidatesTokenCount": u.Output - u.Reasoning, "totalTokenCount": u.Input + u.Output}
	if u.Reasoning > 0 {
		usage["thoughtsTokenCount"] = u.Reasoning
	}
	if u.Cached > 0 {
		usage["cachedContentTokenCount"] = u.Cached
	}
	body["usageMetadata"] = usage
	return body
}

func (c *call) serveGenerate() {
	u, cut := c.decide(c.geminiInput(), c.body.Get("generationConfig.maxOutputTokens").Int())
	reason := "STOP"
	if cut {
		reason = "MAX_TOKENS"
	}
	tokens := text(c.hash, u.Output-u.Reasoning)
	if !c.record.Stream {
		c.reply(u, c.generated(strings.Join(tokens, ""), reason, u))
		return
	}
	var parts []obj
	var counts []int64
	so := u
	so.Output = u.Reasoning
	for piece := range chunks(tokens, 8*c.pace.chunk()) { // Gemini sends larger pieces than the others
		so.Output += int64(len(piece))
		end := ""
		if so.Output == u.Output {
			end = reason
		}
		parts = append(parts, c.generated(strings.Join(piece, ""), end, so))
		counts = append(counts, int64(len(piece)))
	}
	if len(parts) == 0 {
		parts, counts = []obj{c.generated("", reason, u)}, []int64{0}
	}
	c.streamGenerated(u, parts, counts)
}

// streamGenerated streams as server-sent events or, without alt=sse, as one JSON array in pieces.
func (c *call) streamGenerated(u Usage, parts []obj, counts []int64) {
	events := make([]event, len(parts))
	asEvents := c.r.URL.Query().Get("alt") == "sse"
	for i, p := range parts {
		last := i == len(parts)-1
		e := event{tokens: counts[i], last: last, usage: last && c.fault.kind != faultNoUsage}
		switch {
		case asEvents:
			e.data = append([]byte("data: "), encode(p)...)
			e.data = append(e.data, "\r\n\r\n"...)
		case i == 0:
			e.data = append([]byte("["), encode(p)...)
		default:
			e.data = append([]byte("\n,\r\n"), encode(p)...)
		}
		if last && !asEvents {
			e.data = append(e.data, "\n]\n"...)
		}
		events[i] = e
	}
	contentType := "application/json; charset=UTF-8"
	if asEvents {
		contentType = "text/event-stream"
	}
	c.stream(contentType, u, events)
}
