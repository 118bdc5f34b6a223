package gokakit

import (
	gohash "hash"
	"log/slog"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
)

// What the tests of the traps turn on and off one by one.
var (
	NewHasher = newHasher
	SelfTest  = selfTest
)

func NewConsumerGroup(inner sarama.ConsumerGroup, log *slog.Logger) sarama.ConsumerGroup {
	return newConsumerGroup(inner, log)
}

var (
	Enqueue     = enqueue
	Acknowledge = acknowledge
)

// At is a position of a counted input.
func At(topicID string, partition int32, offset int64) position {
	return position{topicID: []byte(topicID), partition: partition, offset: offset}
}

func NewMapStorage() storage.Storage { return newMapStorage(nil) }

func NewMerge() goka.UpdateCallback { return new(merger).Update }

func GokaPartition(h func() gohash.Hash32, key string, n int32) int32 {
	return gokaPartition(h, key, n)
}

func (s Settings) Sarama() (*sarama.Config, error) { return s.sarama() }
