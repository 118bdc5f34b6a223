package adminclient

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Producer is one run of one proxy that is not closed.
type Producer struct {
	ID             string     `json:"id"`
	Host           string     `json:"host"`
	StartedAt      time.Time  `json:"started_at"`
	DeclaredLostAt *time.Time `json:"declared_lost_at"`
}

// Producers lists the runs of proxies that are not closed.
func (c *Client) Producers(ctx context.Context) ([]Producer, error) {
	return gather(list[Producer](ctx, c, "/v1/producers", nil))
}

// DeclareLost says that nobody will ever read what a run of a proxy left; the reason is kept in the audit log.
func (c *Client) DeclareLost(ctx context.Context, producer, reason string) (Producer, error) {
	return call[Producer](ctx, c, http.MethodPost, "/v1/producers/"+url.PathEscape(producer)+"/declare-lost", map[string]string{"reason": reason})
}
