// Package keyspace names the keys that proxies and control share in Redis. Everything of a workspace
// lies in one slot of a cluster, whatever its ids are made of.
package keyspace

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

const (
	// maxPlain is the longest name that stands in a key as it is.
	maxPlain = 64
	// plain are the characters that do.
	plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
)

// Name encodes an id for a key. Ids of up to 64 letters, digits and ".-_" stay; of all others it is "~" and a part of their SHA-256:
// no two are the same, and braces, colons, spaces and NULs stay out of the key.
func Name(id string) string {
	if id != "" && len(id) <= maxPlain && allPlain(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "~" + base64.RawURLEncoding.EncodeToString(sum[:18])
}

// isPlain holds for each byte whether it is plain.
var isPlain = func() (t [256]bool) {
	for i := range len(plain) {
		t[plain[i]] = true
	}
	return t
}()

func allPlain(id string) bool {
	for i := range len(id) {
		if !isPlain[id[i]] {
			return false
		}
	}
	return true
}

// prefix ties all keys of a workspace to one slot.
func prefix(workspace string) string { return "rg:{" + Name(workspace) + "}:" }

// State is the hash of a workspace: which life of Redis it belongs to, the largest policy version and the largest time that were seen.
func State(workspace string) string { return prefix(workspace) + "s" }

// Fields of the hash at Policy: the version, and the value of its record.
const (
	PolicyVersion  = "v"
	PolicyDocument = "d"
)

// Policy is a hash of the workspace's newest policy: its version in decimal, and the value of its record in the topic of
// policies (an encoded event). Control writes it when a change is committed, before the topic has it, and only over a smaller
// version; a proxy whose policy is older than another's reads both with one HMGET.
func Policy(workspace string) string { return prefix(workspace) + "policy" }

// Revoked is a set of the ids of the workspace's revoked keys. Control adds to it and nobody takes away.
func Revoked(workspace string) string { return prefix(workspace) + "revoked" }

// RevokedKeys is a sorted set of the ids of all revoked keys, for proxies that poll: the score is when control first wrote the
// flag, in µs of its clock, which is later than the revocation where Redis was away. A poll looks back further than clocks differ.
const RevokedKeys = "rg:revoked"

// Mirrored is a random string that control sets where it is missing. Another one, or none, says that Redis has lost its state
// since control last wrote all policies and revocations.
const Mirrored = "rg:mirrored"

// Bucket is what one limit counts for one subject.
func Bucket(workspace, limit, subject string) string {
	return Buckets(workspace, limit).Of(subject)
}

// LimitBuckets are the buckets of one limit.
type LimitBuckets struct{ prefix string }

// Buckets returns the buckets of a limit.
func Buckets(workspace, limit string) LimitBuckets {
	return LimitBuckets{prefix(workspace) + "l:" + Name(limit) + ":"}
}

// Of is the bucket of a subject.
func (b LimitBuckets) Of(subject string) string { return b.prefix + Name(subject) }

// Mark is the mark that a reservation id has consumed, or never may.
func Mark(workspace, reservation string) string {
	return prefix(workspace) + "i:" + strings.ReplaceAll(reservation, "/", ".")
}

// Slotted returns the key of a part of a bucket.
func Slotted(bucket string, part int) string { return bucket + ":" + strconv.Itoa(part) }

// Holders is a hash of who holds units of a bucket. No part of a bucket has its name: a limit may change its algorithm while the parts that
// another one left behind still live.
func Holders(bucket string) string { return bucket + ":h" }

// BudgetPeriod is one balance of a budget in one period.
type BudgetPeriod struct {
	Budget     string
	Generation uint64
	// Balance is the key, route or model whose it is, empty for a budget with one.
	Balance string
	// StartUS is the start of the period in µs, 0 for a budget without periods.
	StartUS int64
}

// Field is the field of State that holds the balance.
func (b BudgetPeriod) Field() string {
	return Balance(b.Budget, b.Generation, b.Balance) + strconv.FormatInt(b.StartUS, 10)
}

// Balance is Field without the start of the period, which follows it in decimal. The names in it can be read back: who ends a reservation
// that stands nowhere but in Redis has no other place to learn them from.
func Balance(budget string, generation uint64, balance string) string {
	return "b" + url.QueryEscape(budget) + ":" + strconv.FormatUint(generation, 10) + ":" + url.QueryEscape(balance) + ":"
}

// ParseField reads a field that Field has written.
func ParseField(field string) (BudgetPeriod, error) {
	parts := strings.Split(strings.TrimPrefix(field, "b"), ":")
	if !strings.HasPrefix(field, "b") || len(parts) != 4 {
		return BudgetPeriod{}, fmt.Errorf("reading balance %q: not of the form b<budget>:<generation>:<balance>:<start>", field)
	}
	var b BudgetPeriod
	var errs [4]error
	b.Budget, errs[0] = url.QueryUnescape(parts[0])
	b.Generation, errs[1] = strconv.ParseUint(parts[1], 10, 64)
	b.Balance, errs[2] = url.QueryUnescape(parts[2])
	b.StartUS, errs[3] = strconv.ParseInt(parts[3], 10, 64)
	if err := errors.Join(errs[:]...); err != nil {
		return BudgetPeriod{}, fmt.Errorf("reading balance %q: %w", field, err)
	}
	return b, nil
}
