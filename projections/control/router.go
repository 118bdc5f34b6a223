package control

import (
	"context"
	_ "embed"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"

	"github.com/rateguard/rateguard/projections/problem"
)

//go:embed openapi.yaml
var openAPIYAML []byte

// Scopes that are none: who may call the endpoint instead.
const (
	// rootOnly is for the admin token.
	rootOnly = "root"
	// anyScope is for every caller that can do more than invoke.
	anyScope = "any"
)

// endpoint is one row of the API.
type endpoint struct {
	method, path string
	// scope that a workspace key needs.
	scope string
	do    func(context.Context, *call) (answer, error)
}

// endpoints is the table of the API; openapi.yaml describes the same.
func (s *Server) endpoints() []endpoint {
	const ws = "/v1/workspaces/{ws}"
	return slices.Concat([]endpoint{
		{http.MethodGet, "/v1/workspaces", anyScope, s.listWorkspaces},
		{http.MethodPost, "/v1/workspaces", rootOnly, s.createWorkspace},
		{http.MethodGet, ws, anyScope, s.getWorkspace},
		{http.MethodPatch, ws, rootOnly, s.patchWorkspace},
		{http.MethodDelete, ws, rootOnly, s.deleteWorkspace},

		{http.MethodGet, ws + "/keys", "read:keys", s.listKeys},
		{http.MethodPost, ws + "/keys", "write:keys", s.createKey},
		{http.MethodGet, ws + "/keys/{key}", "read:keys", s.getKey},
		{http.MethodPatch, ws + "/keys/{key}", "write:keys", s.patchKey},
		{http.MethodPost, ws + "/keys/{key}/rotate", "write:keys", s.rotateKey},
		{http.MethodPost, ws + "/keys/{key}/revoke", "write:keys", s.revokeKey},

		{http.MethodGet, ws + "/usage", "read:usage", s.getUsage},
		{http.MethodGet, ws + "/requests", "read:requests", s.listRequests},
		{http.MethodGet, ws + "/requests/{request}", "read:requests", s.getRequest},
		{http.MethodGet, ws + "/requests/{request}/explain", "read:requests", s.explainRequest},

		{http.MethodGet, ws + "/budgets/{budget}/balances", "read:budgets", s.listBalances},
	}, routes.endpoints(s), limits.endpoints(s), budgets.endpoints(s), s.priceEndpoints(), s.repriceEndpoints(), s.proofEndpoints(), s.producerEndpoints())
}

// newHandler mounts the table. HEAD is GET without a body.
func (s *Server) newHandler() http.Handler {
	r := mux.NewRouter().SkipClean(true)
	methods := map[string][]string{}
	for _, e := range s.endpoints() {
		allowed := []string{e.method}
		if e.method == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
		r.Handle(e.path, s.endpointHandler(e)).Methods(allowed...)
		methods[e.path] = append(methods[e.path], allowed...)
	}
	openAPI := http.HandlerFunc(s.serveOpenAPI)
	r.Handle("/openapi.json", openAPI).Methods(http.MethodGet, http.MethodHead)
	// What follows is reached by methods that none of the above takes.
	for path, allowed := range methods {
		slices.Sort(allowed)
		r.Handle(path, s.refuse(problem.New(http.StatusMethodNotAllowed, problem.MethodNotAllowed, "this path has no such method").Allow(strings.Join(allowed, ", "))))
	}
	r.NotFoundHandler = s.refuse(problem.New(http.StatusNotFound, problem.NotFound, "there is no such path; GET /openapi.json lists them"))
	r.MethodNotAllowedHandler = s.refuse(problem.New(http.StatusMethodNotAllowed, problem.MethodNotAllowed, "this path has no such method"))
	return r
}

func (s *Server) refuse(p *problem.Problem) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.metrics.requests.WithLabelValues("unmatched", http.StatusText(p.Status)).Inc()
		_ = p.Write(w) // the client has left
	})
}

func (s *Server) endpointHandler(e endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id, err := uuid.NewV7()
		requestID := id.String()
		w.Header().Set("X-Request-Id", requestID)
		var a answer
		if err == nil {
			a, err = s.serve(r, e)
		}
		status := a.status
		if err == nil {
			err = a.write(w, r)
		} else {
			p := asProblem(err)
			status = p.Status
			if r.Context().Err() != nil {
				status = 499 // the client left: nobody reads the answer, and it is no failure of ours
			}
			shown := *p
			shown.RequestID = requestID
			err = shown.Write(w)
			s.logFailure(r, e, requestID, p, status)
		}
		if err != nil {
			s.log.Debug("answer was not sent", slog.String("request_id", requestID), slog.Any("error", err))
		}
		s.metrics.requests.WithLabelValues(e.method+" "+e.path, http.StatusText(status)).Inc()
		s.metrics.seconds.WithLabelValues(e.method + " " + e.path).Observe(time.Since(start).Seconds())
	})
}

func (s *Server) serve(r *http.Request, e endpoint) (answer, error) {
	who, err := s.identify(r)
	if err != nil {
		return answer{}, err
	}
	c := newCall(r, who)
	if err := s.admit(r.Context(), c, e); err != nil {
		return answer{}, err
	}
	return e.do(r.Context(), c)
}

// logFailure logs what is our fault; a client's mistakes are its own affair.
func (s *Server) logFailure(r *http.Request, e endpoint, requestID string, p *problem.Problem, status int) {
	if status < http.StatusInternalServerError {
		return
	}
	s.log.Error("admin request failed", slog.String("request_id", requestID), slog.String("workspace", mux.Vars(r)["ws"]),
		slog.String("method", e.method), slog.String("path", e.path), slog.Int("status", status), slog.Any("error", p.Unwrap()))
}
