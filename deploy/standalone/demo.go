package standalone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
)

// demoWorkspace is the name of the workspace that Start seeds.
const demoWorkspace = "demo"

// keyInForce is how long the demo key may take to be known to the proxy.
const keyInForce = 15 * time.Second

// Demo is the seeded workspace.
type Demo struct {
	// Workspace is its id.
	Workspace string
	// KeyID and Key are the API key; Key is the secret that clients send.
	KeyID, Key string
}

// demoState is what the data folder keeps of the seeding: which things are ours to change. The
// key's secret stands in a file of its own.
type demoState struct {
	Workspace string `json:"workspace"`
	KeyID     string `json:"key_id"`
	// Routes are the base URLs that the last start set.
	Routes map[string]string `json:"routes"`
}

// demoRoute is one route of the workspace and where it leads.
type demoRoute struct {
	name, provider, realURL, credential, mockPath string
	cost                                          adminclient.Cost
}

func (s *System) demoRoutes() []demoRoute {
	perToken := adminclient.Cost{Mode: "per_token"}
	return []demoRoute{
		{name: "openai", provider: "openai", realURL: "https://api.openai.com", credential: s.cfg.Providers.OpenAI, mockPath: "/openai", cost: perToken},
		{name: "anthropic", provider: "anthropic", realURL: "https://api.anthropic.com", credential: s.cfg.Providers.Anthropic, mockPath: "/anthropic", cost: perToken},
		{name: "gemini", provider: "gemini", realURL: "https://generativelanguage.googleapis.com", credential: s.cfg.Providers.Gemini, mockPath: "/gemini", cost: perToken},
		{name: "http", provider: "http", mockPath: "/http", cost: adminclient.Cost{Mode: "per_request", USD: "0.002"}},
	}
}

// seedDemo makes the workspace, its routes and its key through the admin API, as a user would,
// and leaves alone what it finds.
func (s *System) seedDemo(ctx context.Context) error {
	c := adminclient.New(s.AdminURL(), s.cfg.AdminToken)
	var state demoState
	raw, err := os.ReadFile(s.cfg.path("demo.json"))
	if err == nil {
		err = json.Unmarshal(raw, &state)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading what the demo is: %w", err)
	}
	if state.Workspace, err = findWorkspace(ctx, c, state.Workspace); err != nil {
		return fmt.Errorf("seeding the demo: %w", err)
	}
	if err := s.seedRoutes(ctx, c, &state); err != nil {
		return fmt.Errorf("seeding the demo's routes: %w", err)
	}
	if s.demo, err = s.seedKey(ctx, c, &state); err != nil {
		return fmt.Errorf("seeding the demo's key: %w", err)
	}
	out, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding what the demo is: %w", err)
	}
	if err := writeSecret(s.cfg.path("demo.json"), string(out)); err != nil {
		return err
	}
	return s.awaitKey(ctx, state)
}

// findWorkspace returns the workspace of the last start, or the first with the demo's name, or a new one.
func findWorkspace(ctx context.Context, c *adminclient.Client, last string) (string, error) {
	all, err := c.Workspaces(ctx)
	if err != nil {
		return "", err
	}
	byName := ""
	for _, w := range all {
		if last != "" && w.ID == last {
			return last, nil
		}
		if byName == "" && w.Name == demoWorkspace {
			byName = w.ID
		}
	}
	if byName != "" {
		return byName, nil
	}
	made, err := c.CreateWorkspace(ctx, demoWorkspace)
	return made.ID, err
}

// seedRoutes sets the routes that are missing or that still lead where the last start put them.
func (s *System) seedRoutes(ctx context.Context, c *adminclient.Client, state *demoState) error {
	set := map[string]string{}
	for _, r := range s.demoRoutes() {
		want := adminclient.PutRoute{Provider: r.provider, Cost: &r.cost}
		switch {
		case r.credential != "":
			want.BaseURL, want.Credential = r.realURL, &r.credential
		case s.MockURL() != "":
			mock := "demo"
			want.BaseURL, want.Credential = s.MockURL()+r.mockPath, &mock
		default:
			continue
		}
		have, err := c.Route(ctx, state.Workspace, r.name)
		if err != nil && !missing(err) {
			return err
		}
		if err == nil && have.BaseURL != state.Routes[r.name] {
			continue // somebody changed it
		}
		if _, err := c.PutRoute(ctx, state.Workspace, r.name, want); err != nil {
			return err
		}
		set[r.name] = want.BaseURL
	}
	state.Routes = set
	return nil
}

// seedKey returns the key of the last start while it is in force, else a new one.
func (s *System) seedKey(ctx context.Context, c *adminclient.Client, state *demoState) (Demo, error) {
	file := s.cfg.path("demo-key")
	if raw, err := os.ReadFile(file); err == nil && state.KeyID != "" { //nolint:gosec // G304: in the data folder
		have, err := c.Key(ctx, state.Workspace, state.KeyID)
		if err != nil && !missing(err) {
			return Demo{}, err
		}
		expired := have.ExpiresAt != nil && have.ExpiresAt.Before(time.Now())
		if err == nil && have.RevokedAt == nil && !expired {
			return Demo{Workspace: state.Workspace, KeyID: state.KeyID, Key: strings.TrimSpace(string(raw))}, nil
		}
	}
	made, err := c.CreateKey(ctx, state.Workspace, adminclient.NewKey{Name: demoWorkspace})
	if err != nil {
		return Demo{}, err
	}
	state.KeyID = made.ID
	return Demo{Workspace: state.Workspace, KeyID: made.ID, Key: made.Secret}, writeSecret(file, made.Secret)
}

func missing(err error) bool {
	var refused *adminclient.Error
	return errors.As(err, &refused) && refused.Status == http.StatusNotFound
}

// awaitKey waits until the proxy knows the key and the routes, so that what is printed works.
func (s *System) awaitKey(ctx context.Context, state demoState) error {
	ctx, cancel := context.WithTimeout(ctx, keyInForce)
	defer cancel()
	ticker := time.NewTicker(readyInterval)
	defer ticker.Stop()
	for {
		waiting := ""
		for name := range state.Routes {
			if !s.proxy.Serves(s.demo.Key, name) {
				waiting = name
			}
		}
		if waiting == "" {
			return nil
		}
		select {
		case <-s.group.failed:
			return s.group.cause
		case <-ctx.Done():
			return fmt.Errorf("waiting until the proxy takes the demo key on the route %s: %w", waiting, ctx.Err())
		case <-ticker.C:
		}
	}
}
