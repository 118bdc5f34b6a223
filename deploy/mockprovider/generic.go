package mockprovider

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// hidden headers are left out of an echo.
var hidden = map[string]bool{"Authorization": true, "X-Api-Key": true, "Api-Key": true, "X-Goog-Api-Key": true, "Cookie": true}

// serveGeneric is any HTTP API: it echoes the request, answers /status/N with that status and
// /events/N with a stream of N events.
func (c *call) serveGeneric() {
	if !c.wait(c.pace.first(c.hash)) {
		return
	}
	if n, ok := strings.CutPrefix(c.path, "/status/"); ok {
		status, err := strconv.Atoi(n)
		if err != nil || status < 200 || status > 599 {
			status = http.StatusBadRequest
		}
		if status >= 400 {
			c.fail(status, "as asked")
			return
		}
		c.finish(status, "application/json", encode(obj{"status": status}))
		return
	}
	if n, ok := strings.CutPrefix(c.path, "/events/"); ok {
		count := min(max(0, parseCount(n)), 10_000)
		events := make([]event, count)
		for i := range events {
			events[i] = event{data: sse("", fmt.Appendf(nil, `{"event":%d}`, i)), tokens: 1}
		}
		c.stream("text/event-stream", Usage{}, events)
		c.record.Usage = Usage{}
		return
	}
	headers := map[string][]string{}
	for name, values := range c.r.Header {
		if !hidden[name] {
			headers[name] = values
		}
	}
	c.finish(http.StatusOK, "application/json", encode(obj{
		"method": c.r.Method, "path": c.path, "query": c.r.URL.RawQuery, "headers": headers, "body": string(c.raw),
	}))
}
