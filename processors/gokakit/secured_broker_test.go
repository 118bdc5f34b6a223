package gokakit_test

import (
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/rateguard/rateguard/processors/gokakit"
	"github.com/rateguard/rateguard/processors/internal/kafkatest"
	"github.com/rateguard/rateguard/topics"
)

// sarama brings no SCRAM of its own: every client of a group, goka's and ours, has to get in with what the kit lends it.
func TestAGroupRunsBehindTLSAndSASL(t *testing.T) {
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		t.Run(mechanism, func(t *testing.T) {
			c := kafkatest.StartSecured(t, mechanism)
			c.Produce(t, topics.Costs, some("ws_1", 3)...)
			r, _, _ := runKit(t, c, tally())
			waitCount(t, r, "ws_1", 3)
		})
	}
}

func TestABrokerRefusesWhoIsNotItsUser(t *testing.T) {
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		t.Run(mechanism, func(t *testing.T) {
			c := kafkatest.StartSecured(t, mechanism)
			for name, test := range map[string]struct {
				password string
				tls      bool
			}{
				"with the password":  {c.Kafka.SASLPassword, true},
				"with another one":   {"wrong", true},
				"without encryption": {c.Kafka.SASLPassword, false},
			} {
				kafka := c.Kafka
				kafka.SASLPassword, kafka.TLS = test.password, test.tls
				config, err := gokakit.Settings{Kafka: kafka, Session: time.Second}.Sarama()
				if err != nil {
					t.Fatalf("%s: configuring: %v", name, err)
				}
				config.Metadata.Retry.Max = 0
				client, err := sarama.NewClient(kafka.Seeds(), config)
				if err == nil {
					err = client.Close()
				}
				if in := kafka == c.Kafka; in != (err == nil) {
					t.Errorf("%s: got %v", name, err)
				}
			}
		})
	}
}
