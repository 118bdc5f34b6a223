// Package adminclient calls the admin API. It is small on purpose: what the command line and
// the demo need, with the names of the API's documents and money as decimal strings.
package adminclient

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxAnswer is the largest answer that is read, in bytes.
const maxAnswer = 64 << 20

// patience bounds one call: the API takes up to 90 s for an answer that it reads from the log.
const patience = 100 * time.Second

// Client calls one admin API. Safe for concurrent use.
type Client struct {
	base  string
	token string
	http  *http.Client
}

// New returns a client of the API at base, such as http://127.0.0.1:8081.
func New(base, token string) *Client {
	return &Client{base: strings.TrimRight(base, "/"), token: token, http: &http.Client{Timeout: patience}}
}

// Error is an answer of the API that is no success: its application/problem+json document.
type Error struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	// Errors are the fields that are wrong.
	Errors []struct {
		Field   string `json:"field"`
		Message string `json:"message"`
	} `json:"errors"`
}

// Error returns the problem in one line.
func (e *Error) Error() string {
	text := e.Detail
	if len(e.Errors) > 0 { // the detail repeats the first of them
		fields := make([]string, len(e.Errors))
		for i, f := range e.Errors {
			fields[i] = f.Field + ": " + f.Message
		}
		text = strings.Join(fields, "; ")
	}
	if text == "" {
		text = http.StatusText(e.Status)
	}
	return fmt.Sprintf("the admin API answers %d: %s", e.Status, text)
}

// Do sends in as JSON, when it is not nil, and decodes the answer into out, when that is not
// nil. An answer of 400 or more is an *Error.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encoding a request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return fmt.Errorf("building a request: %w", err)
	}
	r.Header.Set("Accept", "application/json")
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("calling the admin API: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the admin API's answer: %w", err)
	}
	if res.StatusCode >= http.StatusBadRequest {
		return problem(res.StatusCode, answer)
	}
	if out == nil || len(answer) == 0 {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decoding the admin API's answer to %s %s: %w", method, path, err)
	}
	return nil
}

func problem(status int, body []byte) error {
	e := &Error{}
	if json.Unmarshal(body, e) != nil {
		e.Detail = strings.TrimSpace(string(body[:min(len(body), 200)]))
	}
	e.Status = status
	return e
}

// page is one page of a list.
type page[T any] struct {
	Data []T    `json:"data"`
	Next string `json:"next"`
}

// list yields every item of a list, page after page, until it fails or the consumer stops.
func list[T any](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		q := url.Values{}
		for k, v := range query {
			q[k] = v
		}
		for {
			var p page[T]
			if err := c.Do(ctx, http.MethodGet, path, q, nil, &p); err != nil {
				var zero T
				yield(zero, err)
				return
			}
			for _, item := range p.Data {
				if !yield(item, nil) {
					return
				}
			}
			if p.Next == "" {
				return
			}
			q.Set("cursor", p.Next)
		}
	}
}

// gather reads a whole list.
func gather[T any](items iter.Seq2[T, error]) ([]T, error) {
	out := []T{}
	for item, err := range items {
		if err != nil {
			return nil, err
		}
		out = append(out, item)
	}
	return out, nil
}
