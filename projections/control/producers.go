package control

import (
	"context"
	"net/http"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/projections/proof"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// producer is one run of one proxy that is not closed: it runs, or nobody has ended yet what it left.
type producer struct {
	ID        string    `json:"id"`
	Host      string    `json:"host"`
	StartedAt time.Time `json:"started_at"`
	// DeclaredLostAt is nil where no operator has.
	DeclaredLostAt *time.Time `json:"declared_lost_at"`
}

func producerOf(s *rateguardv1.ProducerStatus) producer {
	p := producer{ID: s.GetProducerId(), Host: s.GetHost(), StartedAt: time.UnixMicro(s.GetStartedAtUnixUs()).UTC()}
	if us := s.GetDeclaredLostAtUnixUs(); us != 0 {
		at := time.UnixMicro(us).UTC()
		p.DeclaredLostAt = &at
	}
	return p
}

func (s *Server) producerEndpoints() []endpoint {
	return []endpoint{
		{http.MethodGet, "/v1/producers", rootOnly, s.listProducers},
		{http.MethodPost, "/v1/producers/{producer}/declare-lost", rootOnly, s.declareLost},
	}
}

func (s *Server) listProducers(ctx context.Context, c *call) (answer, error) {
	if err := onlyParameters(c.http.URL.Query()); err != nil {
		return answer{}, err
	}
	known, err := proof.NewLog(s.cfg.Kafka).Producers(ctx)
	if err != nil {
		return answer{}, err
	}
	l := list[producer]{Data: []producer{}}
	for _, p := range known {
		if p.GetClosedAtUnixUs() == 0 {
			l.Data = append(l.Data, producerOf(p))
		}
	}
	return answer{status: http.StatusOK, body: l}, nil
}

// maxDeclaration bounds the reason of a declaration, in characters.
const maxDeclaration = 500

// declareLost says in the log that nobody will ever read what a producer left on its disk and in Redis. Whoever closes it ends at their
// bounds what the log shows open of it, and asks Redis nothing. Its status is written again by the relay, as any change is.
func (s *Server) declareLost(ctx context.Context, c *call) (answer, error) {
	o, err := readObject(c.http, false)
	if err != nil {
		return answer{}, err
	}
	var reason string
	if o.require("reason") {
		reason, _ = o.text("reason", maxDeclaration)
	}
	if err := o.done(); err != nil {
		return answer{}, err
	}
	known, err := proof.NewLog(s.cfg.Kafka).Producers(ctx)
	if err != nil {
		return answer{}, err
	}
	id := c.vars["producer"]
	i := slices.IndexFunc(known, func(p *rateguardv1.ProducerStatus) bool { return p.GetProducerId() == id })
	switch {
	case i < 0:
		return answer{}, problem.Missing("producer", id)
	case known[i].GetClosedAtUnixUs() != 0:
		return answer{}, problem.New(http.StatusConflict, problem.Conflict, "the producer is closed: everything that it left is ended")
	case known[i].GetDeclaredLostAtUnixUs() != 0:
		return answer{status: http.StatusOK, body: producerOf(known[i])}, nil
	}
	lost := proto.CloneOf(known[i])
	lost.DeclaredLostAtUnixUs = s.now().UnixMicro()
	err = s.rootChange(ctx, func(ctx context.Context, ch *change) error {
		what := action{actor: c.caller.actor(), name: "producer.declare_lost", object: "producers/" + id, before: producerOf(known[i]), after: declaration{producerOf(lost), reason}}
		if err := ch.record(ctx, what); err != nil {
			return err
		}
		return ch.publish(ctx, topics.Producers, id, &rateguardv1.Event{Body: &rateguardv1.Event_ProducerStatus{ProducerStatus: lost}})
	})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: producerOf(lost)}, nil
}

// declaration is what the audit log keeps of one.
type declaration struct {
	producer
	Reason string `json:"reason"`
}
