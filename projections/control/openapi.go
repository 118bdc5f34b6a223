package control

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/rateguard/rateguard/projections/problem"
)

// openAPIJSON is openapi.yaml as JSON, made at the first use.
var openAPIJSON = sync.OnceValues(func() ([]byte, error) {
	var doc map[string]any
	if err := yaml.Unmarshal(openAPIYAML, &doc); err != nil {
		return nil, fmt.Errorf("reading openapi.yaml: %w", err)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encoding openapi.yaml: %w", err)
	}
	return b, nil
})

// OpenAPI returns the description of the API in JSON.
func OpenAPI() ([]byte, error) { return openAPIJSON() }

// serveOpenAPI answers without a credential: the description holds no secrets, and tools fetch it first.
func (s *Server) serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	b, err := OpenAPI()
	if err != nil {
		s.log.Error("the API's description is broken", slog.Any("error", err))
		_ = problem.Hidden(err).Write(w) // the client has left
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // the client has left
}
