package gokakit

import (
	"crypto/tls"
	"fmt"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"

	"github.com/rateguard/rateguard/topics/broker"
)

// Settings are what a deployment may choose; everything that correctness rests on is fixed in sarama.
type Settings struct {
	Kafka broker.Config
	// Instance is the stable name of this process within the group (static membership): a
	// restart under the same name takes its partitions back without a rebalance.
	Instance string
	// Session is how long the group waits for a process that went silent. Brokers refuse less than
	// their group.min.session.timeout.ms.
	Session time.Duration
}

const (
	// flushEvery bounds how long a table record waits for others. Zero would never flush the tail: goka sets Flush.Bytes.
	flushEvery = 2 * time.Millisecond
	// produceRetries rides out a change of leader; what outlasts it ends Run, and the supervisor starts again.
	produceRetries = 100
	// heartbeats is how many of them fit into a session.
	heartbeats = 5
	// sessionMinimum leaves time for a join between heartbeats.
	sessionMinimum = time.Second
)

// sarama returns a configuration of its own for each client: goka writes the client id and
// the partitioner into the one it is given.
func (s Settings) sarama() (*sarama.Config, error) {
	c := goka.DefaultConfig()
	c.Version = sarama.V2_8_0_0
	c.Consumer.Return.Errors = true
	// goka's default is newest: a group that starts on an existing topic would skip it whole.
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Interval = 200 * time.Millisecond
	c.Consumer.Group.Rebalance.Strategy = goka.StrictCopartitioningStrategy
	c.Consumer.Group.InstanceId = s.Instance
	c.Consumer.Group.Session.Timeout = s.Session
	c.Consumer.Group.Heartbeat.Interval = s.Session / heartbeats
	// One request in flight, acknowledged by all replicas, numbered: a partition of the table
	// is a prefix of what was applied, whatever fails.
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1
	c.Producer.Retry.Max = produceRetries
	c.Producer.Flush.Frequency = flushEvery
	// No transactional id, ever: a table whose last record is a transaction marker hangs goka's recovery.
	c.Producer.Transaction.ID = ""
	if err := s.secure(c); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuring sarama: %w", err)
	}
	return c, nil
}

// secure applies TLS and SASL.
func (s Settings) secure(c *sarama.Config) error {
	t, err := s.Kafka.TLSConfig()
	if err != nil {
		return err
	}
	c.Net.TLS.Enable, c.Net.TLS.Config = t != nil, t
	if t == nil {
		c.Net.TLS.Config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if s.Kafka.SASLMechanism == "" {
		return nil
	}
	c.Net.SASL.Enable = true
	c.Net.SASL.User, c.Net.SASL.Password = s.Kafka.SASLUser, s.Kafka.SASLPassword
	switch s.Kafka.SASLMechanism {
	case "plain":
		c.Net.SASL.Mechanism = sarama.SASLTypePlaintext
	case "scram-sha-256", "scram-sha-512":
		c.Net.SASL.Mechanism = sarama.SASLTypeSCRAMSHA256
		if s.Kafka.SASLMechanism == "scram-sha-512" {
			c.Net.SASL.Mechanism = sarama.SASLTypeSCRAMSHA512
		}
		mechanism := s.Kafka.SASLMechanism
		c.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{mechanism: mechanism} }
	}
	return nil
}
