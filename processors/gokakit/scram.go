package gokakit

import (
	"context"
	"errors"
	"fmt"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// scramClient lends franz-go's SCRAM to sarama, which has none of its own.
type scramClient struct {
	mechanism string
	session   sasl.Session
	first     []byte
	done      bool
}

var _ sarama.SCRAMClient = (*scramClient)(nil)

// Begin starts one authentication.
func (c *scramClient) Begin(user, password, authzID string) error {
	auth := scram.Auth{User: user, Pass: password, Zid: authzID}
	m := auth.AsSha256Mechanism()
	if c.mechanism == "scram-sha-512" {
		m = auth.AsSha512Mechanism()
	}
	// sarama's interface has no context to hand on, and this step only makes a message: it waits for nothing.
	session, first, err := m.Authenticate(context.Background(), "")
	if err != nil {
		return fmt.Errorf("beginning SCRAM: %w", err)
	}
	c.session, c.first, c.done = session, first, false
	return nil
}

// Step answers a challenge; the first one is empty.
func (c *scramClient) Step(challenge string) (string, error) {
	if c.session == nil {
		return "", errors.New("SCRAM step before its beginning")
	}
	if c.first != nil {
		first := string(c.first)
		c.first = nil
		return first, nil
	}
	done, answer, err := c.session.Challenge([]byte(challenge))
	if err != nil {
		return "", fmt.Errorf("answering SCRAM: %w", err)
	}
	c.done = done
	return string(answer), nil
}

// Done reports whether the server has proven itself.
func (c *scramClient) Done() bool { return c.done }
