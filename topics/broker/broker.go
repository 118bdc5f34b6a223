// Package broker holds the settings of a connection to Kafka, the same for every role.
package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// Config says how to reach the brokers.
type Config struct {
	// Brokers is a comma-separated list of host:port.
	Brokers string
	// TLS turns encryption on; CAFile replaces the system's roots.
	TLS    bool
	CAFile string
	// SASLMechanism is "plain", "scram-sha-256", "scram-sha-512" or empty.
	SASLMechanism string
	SASLUser      string
	SASLPassword  string
}

// Register adds the settings to a flag set.
func (c *Config) Register(fs *flag.FlagSet) {
	fs.StringVar(&c.Brokers, "kafka-brokers", c.Brokers, "Kafka brokers, host:port separated by commas")
	fs.BoolVar(&c.TLS, "kafka-tls", c.TLS, "use TLS to Kafka")
	fs.StringVar(&c.CAFile, "kafka-ca-file", c.CAFile, "PEM file of the CA of Kafka's certificates; empty: the system's")
	fs.StringVar(&c.SASLMechanism, "kafka-sasl-mechanism", c.SASLMechanism, "plain, scram-sha-256 or scram-sha-512; empty: none")
	fs.StringVar(&c.SASLUser, "kafka-sasl-user", c.SASLUser, "SASL user")
	fs.StringVar(&c.SASLPassword, "kafka-sasl-password", c.SASLPassword, "SASL password")
}

// Validate returns every problem of the settings, joined.
func (c Config) Validate() error {
	var errs []error
	if len(c.Seeds()) == 0 {
		errs = append(errs, errors.New("kafka-brokers: required"))
	}
	for _, s := range c.Seeds() {
		if _, _, err := net.SplitHostPort(s); err != nil {
			errs = append(errs, fmt.Errorf("kafka-brokers: %w", err))
		}
	}
	switch c.SASLMechanism {
	case "":
	case "plain", "scram-sha-256", "scram-sha-512":
		if c.SASLUser == "" || c.SASLPassword == "" {
			errs = append(errs, errors.New("kafka-sasl-user, kafka-sasl-password: required with kafka-sasl-mechanism"))
		}
	default:
		errs = append(errs, fmt.Errorf("kafka-sasl-mechanism: unknown %q", c.SASLMechanism))
	}
	if _, err := c.TLSConfig(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Seeds returns the brokers of the list.
func (c Config) Seeds() []string {
	var seeds []string
	for s := range strings.SplitSeq(c.Brokers, ",") {
		if s = strings.TrimSpace(s); s != "" {
			seeds = append(seeds, s)
		}
	}
	return seeds
}

// Options returns the franz-go options of the connection; what a client does with it is the caller's.
func (c Config) Options() ([]kgo.Opt, error) {
	opts := []kgo.Opt{kgo.SeedBrokers(c.Seeds()...)}
	t, err := c.TLSConfig()
	if err != nil {
		return nil, err
	}
	if t != nil {
		opts = append(opts, kgo.DialTLSConfig(t))
	}
	switch c.SASLMechanism {
	case "plain":
		opts = append(opts, kgo.SASL(plain.Auth{User: c.SASLUser, Pass: c.SASLPassword}.AsMechanism()))
	case "scram-sha-256":
		opts = append(opts, kgo.SASL(scram.Auth{User: c.SASLUser, Pass: c.SASLPassword}.AsSha256Mechanism()))
	case "scram-sha-512":
		opts = append(opts, kgo.SASL(scram.Auth{User: c.SASLUser, Pass: c.SASLPassword}.AsSha512Mechanism()))
	}
	return opts, nil
}

// TLSConfig returns the TLS settings, nil without TLS.
func (c Config) TLSConfig() (*tls.Config, error) {
	if !c.TLS {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("kafka-ca-file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("kafka-ca-file: no certificate in %s", c.CAFile)
		}
	}
	return t, nil
}
