// Package topics is the one table of Kafka topics: name, key, value, partitions, retention
// and compaction. No other file of the project contains a topic name.
package topics

import (
	"fmt"
	"time"
)

// Cleanup is what Kafka does with old records.
type Cleanup string

// The cleanup policies that RateGuard uses.
const (
	Delete  Cleanup = "delete"
	Compact Cleanup = "compact"
)

// Keying says what a topic's key is.
type Keying string

// The keys of the topics.
const (
	ByWorkspace     Keying = "workspace id"
	ByProducer      Keying = "producer id"
	ByKey           Keying = "key id"
	ByProviderModel Keying = "provider/model"
	ByPartition     Keying = "a key that hashes to the partition"
	ByOriginal      Keying = "key of the original record"
)

// Topic is one row of the table.
type Topic struct {
	Name string
	Key  Keying
	// Bodies are the Event bodies it carries, by their field name; empty for goka's own topics.
	Bodies []string
	// Sharded topics have the number of partitions that is set at provisioning, and the same
	// number all together, so that a workspace has one partition number everywhere. Others have one.
	Sharded bool
	Cleanup Cleanup
	// Retention of deleted topics; 0 for compacted ones.
	Retention time.Duration
	// MinCompactionLag keeps superseded records of compacted topics at least this long.
	MinCompactionLag time.Duration
	// MaxMessageBytes is the largest record batch the brokers take; a writer checks its records against it.
	MaxMessageBytes int32
	Writers         []string
	Doc             string
}

const day = 24 * time.Hour

const (
	// kafkaMaxMessageBytes is Kafka's own default, stated so that a broker's other default changes nothing.
	kafkaMaxMessageBytes int32 = 1 << 20
	// closedMaxMessageBytes lets one ProducerClosed carry the open reservations of a busy workspace.
	closedMaxMessageBytes int32 = 8 << 20
	// deadLetterMaxMessageBytes lets a dead letter hold the largest record of any other topic.
	deadLetterMaxMessageBytes int32 = 9 << 20
)

// tableCompactionLag is the longest outage of a reader of a goka table's outbox.
const tableCompactionLag = 24 * time.Hour

// The topics.
var (
	Requests = Topic{
		Name: "rateguard.requests.v1", Key: ByWorkspace, Sharded: true,
		Bodies:  []string{"request_recorded", "denials_aggregated", "producer_closed", "skipped"},
		Cleanup: Delete, Retention: 30 * day, Writers: []string{"proxy"},
		MaxMessageBytes: closedMaxMessageBytes,
		Doc:             "One record a request, also denied ones, with the decision and what each check saw.",
	}
	Costs = Topic{
		Name: "rateguard.costs.v1", Key: ByWorkspace, Sharded: true,
		Bodies: []string{
			"reservation_opened", "cost_settled", "reservation_voided", "reservation_expired", "cost_corrected",
			"producer_started", "generation_started", "round", "seal", "budgets_installed", "producer_closed", "skipped",
		},
		Cleanup: Delete, Retention: 400 * day, Writers: []string{"proxy", "control"},
		MaxMessageBytes: closedMaxMessageBytes,
		Doc:             "Life of every reservation: opened before it is forwarded, ended once, corrected by revision.",
	}
	Producers = Topic{
		Name: "rateguard.producers.v1", Key: ByProducer,
		Bodies: []string{"producer_status", "round"}, Cleanup: Compact, Writers: []string{"proxy", "control"},
		MaxMessageBytes: kafkaMaxMessageBytes,
		Doc:             "Which proxy processes ran, which of them are closed or declared lost, and the newest round of each partition of the costs topic.",
	}
	Policies = Topic{
		Name: "rateguard.policies.v1", Key: ByWorkspace, Sharded: true,
		Bodies: []string{"workspace_policy"}, Cleanup: Compact, Writers: []string{"control"},
		MaxMessageBytes: kafkaMaxMessageBytes,
		Doc:             "Routes, limits and budgets of a workspace as one versioned document.",
	}
	PolicyHistory = Topic{
		Name: "rateguard.policy-history.v1", Key: ByWorkspace, Sharded: true,
		Bodies: []string{"workspace_policy"}, Cleanup: Delete, Retention: 400 * day, Writers: []string{"control"},
		MaxMessageBytes: kafkaMaxMessageBytes,
		Doc:             "Every version of every policy: what proofs and replays read.",
	}
	Keys = Topic{
		Name: "rateguard.keys.v1", Key: ByKey, Sharded: true,
		Bodies: []string{"key_record"}, Cleanup: Compact, Writers: []string{"control"},
		MaxMessageBytes: kafkaMaxMessageBytes,
		Doc:             "API keys by SHA-256; a tombstone deletes one.",
	}
	Prices = Topic{
		Name: "rateguard.prices.v1", Key: ByProviderModel,
		Bodies: []string{"price_history"}, Cleanup: Compact, Writers: []string{"control"},
		MaxMessageBytes: kafkaMaxMessageBytes,
		Doc:             "Price overrides with effective dates.",
	}
	Alerts = Topic{
		Name: "rateguard.alerts.v1", Key: ByWorkspace, Sharded: true,
		Bodies: []string{"alert"}, Cleanup: Delete, Retention: 90 * day, Writers: []string{"processors", "proxy", "control"},
		MaxMessageBytes: kafkaMaxMessageBytes,
		Doc:             "Alerts raised and resolved, for webhooks and other systems: CloudEvents in binary mode. Repeats have the same id.",
	}
	Audit = Topic{
		Name: "rateguard.audit.v1", Key: ByWorkspace, Sharded: true,
		Bodies: []string{"control_action"}, Cleanup: Delete, Retention: 400 * day, Writers: []string{"control"},
		MaxMessageBytes: kafkaMaxMessageBytes,
		Doc:             "Who changed what; hash-chained.",
	}
	DeadLetters = Topic{
		Name: "rateguard.dead-letters.v1", Key: ByOriginal, Sharded: true,
		Bodies: []string{"dead_letter"}, Cleanup: Delete, Retention: 30 * day, Writers: []string{"processors", "projections"},
		MaxMessageBytes: deadLetterMaxMessageBytes,
		Doc:             "Records that a consumer could not read or apply, with their original bytes.",
	}
	Ticks = Topic{
		Name: "rateguard.ticks.v1", Key: ByPartition, Sharded: true,
		Bodies: []string{"tick"}, Cleanup: Delete, Retention: day, Writers: []string{"control"},
		MaxMessageBytes: kafkaMaxMessageBytes,
		Doc:             "The time, once a partition each 10 s: the clock of the folds.",
	}
	SpendTable = table(SpendGroup)
	SpendLoop  = loop(SpendGroup)
)

// SpendGroup is the consumer group of the spend processor; goka derives its table's topic from it.
const SpendGroup = "rateguard.spend.v1"

// table returns the topic in which goka keeps the state of a group.
func table(group string) Topic {
	return Topic{
		Name: group + "-table", Key: ByWorkspace, Sharded: true,
		Cleanup: Compact, MinCompactionLag: tableCompactionLag, Writers: []string{"processors"},
		MaxMessageBytes: kafkaMaxMessageBytes,
		Doc:             "State of the group " + group + ", by workspace.",
	}
}

// loop returns the topic in which a group hears what was published of its outbox.
func loop(group string) Topic {
	return Topic{
		Name: group + "-loop", Key: ByWorkspace, Sharded: true,
		Bodies: []string{"outbox_acknowledged"}, Cleanup: Delete, Retention: day, Writers: []string{"processors"},
		MaxMessageBytes: kafkaMaxMessageBytes,
		Doc:             "What is published of the outbox of the group " + group + ".",
	}
}

// All returns every topic in the order of the documentation.
func All() []Topic {
	return []Topic{Requests, Costs, Producers, Policies, PolicyHistory, Keys, Prices, Alerts, Audit, DeadLetters, Ticks, SpendTable, SpendLoop}
}

// ByName returns the topic of that name.
func ByName(name string) (Topic, error) {
	for _, t := range All() {
		if t.Name == name {
			return t, nil
		}
	}
	return Topic{}, fmt.Errorf("no topic %q in the table", name)
}
