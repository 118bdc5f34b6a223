package control

import (
	"context"
	"net/http"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/projections/query"
)

// The handlers below give the query package nothing but the workspace that the caller may see and the parameters.

func (s *Server) getUsage(ctx context.Context, c *call) (answer, error) {
	q := c.http.URL.Query()
	if err := onlyParameters(q, query.UsageParameters...); err != nil {
		return answer{}, err
	}
	u, err := s.query.Usage(ctx, c.workspace(), q, s.now())
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: u}, nil
}

func (s *Server) listRequests(ctx context.Context, c *call) (answer, error) {
	q := c.http.URL.Query()
	if err := onlyParameters(q, query.RequestParameters...); err != nil {
		return answer{}, err
	}
	l, err := s.query.Requests(ctx, c.workspace(), q, s.now())
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: l}, nil
}

func (s *Server) getRequest(ctx context.Context, c *call) (answer, error) {
	if err := onlyParameters(c.http.URL.Query()); err != nil {
		return answer{}, err
	}
	r, found, err := s.query.Request(ctx, c.workspace(), c.vars["request"])
	if err != nil {
		return answer{}, err
	}
	if !found {
		return answer{}, problem.Missing("request", c.vars["request"])
	}
	return answer{status: http.StatusOK, body: r}, nil
}

func (s *Server) explainRequest(ctx context.Context, c *call) (answer, error) {
	if err := onlyParameters(c.http.URL.Query()); err != nil {
		return answer{}, err
	}
	e, found, err := s.query.Explain(ctx, c.workspace(), c.vars["request"])
	if err != nil {
		return answer{}, err
	}
	if !found {
		return answer{}, problem.Missing("request", c.vars["request"])
	}
	return answer{status: http.StatusOK, body: e}, nil
}
