package secret_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/rateguard/rateguard/schemas/secret"
)

func mustKey(t *testing.T, s string) [secret.KeySize]byte {
	t.Helper()
	k, err := secret.ParseKey(s)
	if err != nil {
		t.Fatalf("parsing the key: %v", err)
	}
	return k
}

func TestSealedValueOpensOnlyInItsPlace(t *testing.T) {
	key, other := mustKey(t, secret.NewKey()), mustKey(t, secret.NewKey())
	sealed := secret.Seal(key, "ws_a", "openai", []byte("sk-1"))
	plain, err := secret.Open(key, "ws_a", "openai", sealed)
	if err != nil || string(plain) != "sk-1" {
		t.Fatalf("opening: got %q, %v; want sk-1", plain, err)
	}
	flipped := bytes.Clone(sealed)
	flipped[len(flipped)-1] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"another workspace": func() ([]byte, error) { return secret.Open(key, "ws_b", "openai", sealed) },
		"another route":     func() ([]byte, error) { return secret.Open(key, "ws_a", "anthropic", sealed) },
		"moved boundary":    func() ([]byte, error) { return secret.Open(key, "ws_ao", "penai", sealed) },
		"another key":       func() ([]byte, error) { return secret.Open(other, "ws_a", "openai", sealed) },
		"flipped bit":       func() ([]byte, error) { return secret.Open(key, "ws_a", "openai", flipped) },
		"cut":               func() ([]byte, error) { return secret.Open(key, "ws_a", "openai", sealed[:9]) },
		"empty":             func() ([]byte, error) { return secret.Open(key, "ws_a", "openai", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			if plain, err := open(); !errors.Is(err, secret.ErrSealed) {
				t.Errorf("got %q, %v; want ErrSealed", plain, err)
			}
		})
	}
	if bytes.Equal(sealed, secret.Seal(key, "ws_a", "openai", []byte("sk-1"))) {
		t.Error("two seals are equal: the nonce repeats")
	}
}

func TestKeyForms(t *testing.T) {
	hexKey := strings.Repeat("0f", 32)
	if mustKey(t, hexKey)[0] != 0x0f {
		t.Error("hex key is read wrongly")
	}
	for _, bad := range []string{"", "short", strings.Repeat("0", 63), strings.Repeat("z", 64), "AAAA"} {
		if _, err := secret.ParseKey(bad); !errors.Is(err, secret.ErrKey) {
			t.Errorf("ParseKey(%q): got %v, want ErrKey", bad, err)
		}
	}
}
