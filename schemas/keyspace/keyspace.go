// Package keyspace names the keys that proxies and control share in Redis. Everything of a workspace
// lies in one slot of a cluster, whatever its ids are made of.
package keyspace

import (
	"crypto/sha256"
	"encoding/base64"
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
	if id != "" && len(id) <= maxPlain && strings.Trim(id, plain) == "" {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "~" + base64.RawURLEncoding.EncodeToString(sum[:18])
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

// Policy is a hash: the workspace's published policy as the topic of policies holds it, and its version. Control writes it, before the
// topic has it; a proxy whose policy is older than another's reads it there.
func Policy(workspace string) string { return prefix(workspace) + "policy" }

// Revoked is a set of the ids of the workspace's revoked keys. Control adds to it and nobody takes away.
func Revoked(workspace string) string { return prefix(workspace) + "revoked" }

// RevokedKeys is a sorted set of the ids of all revoked keys, for proxies that poll: the score is when, in µs of control's clock.
const RevokedKeys = "rg:revoked"

// Bucket is what one limit counts for one subject.
func Bucket(workspace, limit, subject string) string {
	return prefix(workspace) + "l:" + Name(limit) + ":" + Name(subject)
}

// Mark is the mark that a reservation id has consumed, or never may.
func Mark(workspace, reservation string) string {
	return prefix(workspace) + "i:" + strings.ReplaceAll(reservation, "/", ".")
}

// Slotted returns the key of a part of a bucket.
func Slotted(bucket string, part int) string { return bucket + ":" + strconv.Itoa(part) }
