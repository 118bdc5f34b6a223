// Package secret seals upstream credentials with AES-256-GCM. Control seals, the proxies
// open; it stands here because those two share nothing else.
package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// version is the first byte of every sealed value, so that the form can change.
const version = 1

const nonceSize = 12

// Errors of ParseKey and Open.
var (
	// ErrKey means that the text is no key: 64 hex digits or base64 of 32 bytes are.
	ErrKey = errors.New("a secret key is 32 bytes in hex or base64")
	// ErrSealed means that a sealed value is malformed, was made with another key, or for another workspace or route.
	ErrSealed = errors.New("sealed value does not open")
)

// ParseKey reads a key from 64 hex digits or from base64 (any alphabet, padded or not) of 32 bytes.
// The error never shows the text.
func ParseKey(s string) (key [KeySize]byte, err error) {
	s = strings.TrimSpace(s)
	if b, err := hex.DecodeString(s); err == nil && len(b) == KeySize {
		return [KeySize]byte(b), nil
	}
	plain := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "="))
	if b, err := base64.RawStdEncoding.DecodeString(plain); err == nil && len(b) == KeySize {
		return [KeySize]byte(b), nil
	}
	return key, ErrKey
}

// NewKey returns a random key as ParseKey reads it.
func NewKey() string {
	var b [KeySize]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the process instead
	return base64.StdEncoding.EncodeToString(b[:])
}

// Seal encrypts plaintext for one route of one workspace: it does not open for any other.
// Two calls never give the same bytes.
func Seal(key [KeySize]byte, workspace, route string, plaintext []byte) []byte {
	sealed := make([]byte, 1+nonceSize, 1+nonceSize+len(plaintext)+16)
	sealed[0] = version
	_, _ = rand.Read(sealed[1:]) // never fails: it ends the process instead
	return aead(key).Seal(sealed, sealed[1:], plaintext, associated(workspace, route))
}

// Open decrypts what Seal made for the same workspace and route; it fails with ErrSealed.
func Open(key [KeySize]byte, workspace, route string, sealed []byte) ([]byte, error) {
	if len(sealed) < 1+nonceSize || sealed[0] != version {
		return nil, fmt.Errorf("opening the credential of route %s: %w", route, ErrSealed)
	}
	plain, err := aead(key).Open(nil, sealed[1:1+nonceSize], sealed[1+nonceSize:], associated(workspace, route))
	if err != nil {
		return nil, fmt.Errorf("opening the credential of route %s: %w", route, ErrSealed)
	}
	return plain, nil
}

func aead(key [KeySize]byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) //nolint:forbidigo // impossible: the key has 32 bytes
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) //nolint:forbidigo // impossible: AES has blocks of 16 bytes
	}
	return a
}

// associated binds a sealed value to its place. The length in front keeps ("a", "bc") and ("ab", "c") apart.
func associated(workspace, route string) []byte {
	b := binary.AppendUvarint([]byte{version}, uint64(len(workspace)))
	b = append(b, workspace...)
	return append(b, route...)
}
