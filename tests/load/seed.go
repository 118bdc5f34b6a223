package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// seed makes a workspace with a route and a key through the admin API and waits until the proxy serves it.
func seed(ctx context.Context, admin, upstream string) (secret string, err error) {
	var made struct{ ID, Key string }
	if err := call(ctx, http.MethodPost, admin+"/v1/workspaces", map[string]any{"name": "load"}, &made); err != nil {
		return "", err
	}
	base := admin + "/v1/workspaces/" + made.ID
	if err := call(ctx, http.MethodPut, base+"/routes/openai", map[string]any{"provider": "openai", "base_url": upstream, "credential": upstreamKey}, nil); err != nil {
		return "", err
	}
	if err := call(ctx, http.MethodPost, base+"/keys", map[string]any{"name": "load"}, &made); err != nil {
		return "", err
	}
	return made.Key, nil
}

// serves waits until the target answers a request with 200: the configuration has arrived.
func serves(ctx context.Context, j job) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		c, err := dial(j.address)
		if err != nil {
			return err
		}
		a, err := c.do(j.request)
		c.close()
		if err == nil && a.status == http.StatusOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for a first answer: status %d: %w", a.status, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func call(ctx context.Context, method, url string, body, answer any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding the body: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("making the request: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+adminToken)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("calling the admin API: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: %s: %s", method, url, response.Status, text)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("decoding the answer: %w", err)
	}
	return nil
}
