// Package policy keeps the configuration of all workspaces in memory: keys, policies and prices, as the compacted
// topics have them. Readers take no lock and need no network; a snapshot on disk lets the proxy start
// and serve while Kafka is down.
package policy

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/schemas/price"
	"github.com/rateguard/rateguard/schemas/secret"
)

// Times of a route whose policy names none.
const (
	defaultTimeout     = 300 * time.Second
	defaultIdleTimeout = 300 * time.Second
)

// View is the configuration in force. Lookups take no lock and see each key, workspace and catalogue whole, at one version.
type View struct {
	keys       sync.Map // [32]byte → *call.Key
	revoked    sync.Map // key id → time.Time: what was revoked stays so, whatever a topic says later
	workspaces sync.Map // workspace id → *call.Workspace
	prices     atomic.Pointer[price.Catalogue]

	secretKey [secret.KeySize]byte
	log       *slog.Logger

	// mu guards entries; only the consumer of the topics writes.
	mu      sync.Mutex
	entries map[entryKey]*entry
}

// entryKey is a record's place in a compacted topic.
type entryKey struct{ topic, key string }

// entry is the newest record of a key.
type entry struct {
	version uint64
	value   []byte
	sum     [sha256.Size]byte
	// generation is the read of the topics in which it was seen last; a complete read drops what it has not seen.
	generation uint64
	history    *rateguardv1.PriceHistory
}

// NewView returns an empty view.
func NewView(secretKey [secret.KeySize]byte, log *slog.Logger) *View {
	v := &View{secretKey: secretKey, log: log, entries: make(map[entryKey]*entry)}
	v.prices.Store(price.Default())
	return v
}

// Key returns the key with that SHA-256, nil when there is none.
func (v *View) Key(sum [sha256.Size]byte) *call.Key {
	if k, ok := v.keys.Load(sum); ok {
		return k.(*call.Key) //nolint:forcetypeassert,errcheck // the map holds nothing else
	}
	return nil
}

// Workspace returns the policy of a workspace, nil when there is none.
func (v *View) Workspace(id string) *call.Workspace {
	if w, ok := v.workspaces.Load(id); ok {
		return w.(*call.Workspace) //nolint:forcetypeassert,errcheck // the map holds nothing else
	}
	return nil
}

// Prices returns the catalogue with the overrides in force.
func (v *View) Prices() *price.Catalogue { return v.prices.Load() }

// Apply takes one record of a topic; nil deletes. It reports whether something changed. Of two versions of a key the larger stays,
// whatever the order: a relay that was slow or ran twice cannot bring an old policy back. A record that
// cannot be read is an error, and changes nothing.
func (v *View) Apply(topic, key string, value []byte, generation uint64) (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	k := entryKey{topic, key}
	old := v.entries[k]
	if value == nil {
		if old == nil {
			return false, nil
		}
		v.remove(k, old)
		return true, nil
	}
	e, err := envelope.Decode(value)
	if err != nil {
		return false, fmt.Errorf("reading %s of %s: %w", key, topic, err)
	}
	next := &entry{value: slices.Clone(value), generation: generation, version: versionOf(e)}
	if old != nil && next.version < old.version {
		old.generation = generation
		return false, nil
	}
	if old != nil && next.version == old.version && string(old.value) == string(value) {
		old.generation = generation
		return false, nil
	}
	v.entries[k] = next
	v.publish(e, next, old)
	return true, nil
}

func versionOf(e *rateguardv1.Event) uint64 {
	switch b := e.GetBody().(type) {
	case *rateguardv1.Event_WorkspacePolicy:
		return b.WorkspacePolicy.GetVersion()
	case *rateguardv1.Event_KeyRecord:
		return b.KeyRecord.GetVersion()
	case *rateguardv1.Event_PriceHistory:
		return b.PriceHistory.GetVersion()
	}
	return 0
}

// publish makes a record visible to readers.
func (v *View) publish(e *rateguardv1.Event, next, old *entry) {
	switch b := e.GetBody().(type) {
	case *rateguardv1.Event_KeyRecord:
		copy(next.sum[:], b.KeyRecord.GetSha256())
		if old != nil && old.sum != next.sum {
			v.keys.Delete(old.sum)
		}
		v.keys.Store(next.sum, v.newKey(b.KeyRecord))
	case *rateguardv1.Event_WorkspacePolicy:
		v.workspaces.Store(b.WorkspacePolicy.GetWorkspaceId(), v.newWorkspace(b.WorkspacePolicy))
	case *rateguardv1.Event_PriceHistory:
		next.history = b.PriceHistory
		v.reprice()
	}
}

// remove takes a record back.
func (v *View) remove(k entryKey, e *entry) {
	delete(v.entries, k)
	if e.sum != [sha256.Size]byte{} {
		v.keys.Delete(e.sum)
		return
	}
	if e.history != nil {
		v.reprice()
		return
	}
	v.workspaces.Delete(k.key)
}

// reprice makes the catalogue anew. An override that is not valid is left out, so that it cannot take the others with it.
func (v *View) reprice() {
	var all []*rateguardv1.PriceHistory
	for k, e := range v.entries {
		if e.history == nil {
			continue
		}
		if _, err := price.Default().With([]*rateguardv1.PriceHistory{e.history}); err != nil {
			v.log.Error("price override is ignored", slog.String("key", k.key), slog.Any("error", err))
			continue
		}
		all = append(all, e.history)
	}
	catalogue, err := price.Default().With(all)
	if err != nil {
		v.log.Error("price overrides are ignored", slog.Any("error", err))
		return
	}
	v.prices.Store(catalogue)
}

// forget removes what the topic's read of that generation has not seen: it was deleted while nobody listened.
func (v *View) forget(topic string, generation uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for k, e := range v.entries {
		if k.topic == topic && e.generation != generation {
			v.remove(k, e)
		}
	}
}

// ApplyAhead takes a record that its topic is going to bring, if it is newer than the one at hand. One without a predecessor is left
// to the topic.
func (v *View) ApplyAhead(topic, key string, value []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	k := entryKey{topic, key}
	old := v.entries[k]
	e, err := envelope.Decode(value)
	if err != nil {
		return fmt.Errorf("reading %s of %s: %w", key, topic, err)
	}
	if old == nil || versionOf(e) <= old.version {
		return nil
	}
	next := &entry{value: slices.Clone(value), generation: old.generation, version: versionOf(e)}
	v.entries[k] = next
	v.publish(e, next, old)
	return nil
}

// Revoke makes a key revoked for good, also one that the topic has not brought yet.
func (v *View) Revoke(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, known := v.revoked.LoadOrStore(id, time.Now()); known {
		return
	}
	v.keys.Range(func(sum, found any) bool {
		k := found.(*call.Key) //nolint:forcetypeassert,errcheck // the map holds nothing else
		if k.ID != id {
			return true
		}
		gone := *k
		if gone.RevokedAt.IsZero() {
			gone.RevokedAt = time.Now()
		}
		v.keys.Store(sum, &gone)
		return false
	})
}

func (v *View) newKey(r *rateguardv1.KeyRecord) *call.Key {
	k := &call.Key{
		ID: r.GetKeyId(), WorkspaceID: r.GetWorkspaceId(), Routes: r.GetRoutes(), Models: r.GetModels(),
		Invoke: len(r.GetScopes()) == 0 || slices.Contains(r.GetScopes(), "invoke"),
	}
	if us := r.GetExpiresAtUnixUs(); us != 0 {
		k.ExpiresAt = time.UnixMicro(us)
	}
	if us := r.GetRevokedAtUnixUs(); us != 0 {
		k.RevokedAt = time.UnixMicro(us)
	} else if at, ok := v.revoked.Load(k.ID); ok {
		k.RevokedAt, _ = at.(time.Time)
	}
	return k
}

func (v *View) newWorkspace(p *rateguardv1.WorkspacePolicy) *call.Workspace {
	w := &call.Workspace{
		ID: p.GetWorkspaceId(), Version: p.GetVersion(), Deleted: p.GetDeleted(), Document: p,
		Routes:               make(map[string]*call.Route, len(p.GetRoutes())),
		BudgetExceededStatus: int(p.GetSettings().GetBudgetExceededStatus()),
		UnknownOutcome:       p.GetSettings().GetUnknownOutcome(),
	}
	if w.BudgetExceededStatus == 0 {
		w.BudgetExceededStatus = 402
	}
	for _, r := range p.GetRoutes() {
		w.Routes[r.GetId()] = v.newRoute(w.ID, r)
	}
	return w
}

// newRoute prepares a route. One that cannot work says why, instead of taking its whole workspace down.
func (v *View) newRoute(workspace string, r *rateguardv1.Route) *call.Route {
	out := &call.Route{
		ID: r.GetId(), Dialect: call.ParseDialect(r.GetProvider()),
		Provider: price.ProviderFor(r.GetProvider(), r.GetBaseUrl()),
		Timeout:  orDefault(r.GetTimeoutUs(), defaultTimeout), IdleTimeout: orDefault(r.GetIdleTimeoutUs(), defaultIdleTimeout),
		HasPerRequest: r.PerRequestNanoUsd != nil, PerRequest: money.Nano(r.GetPerRequestNanoUsd()),
	}
	if out.Provider == "" {
		out.Provider = r.GetProvider()
	}
	u, err := url.Parse(r.GetBaseUrl())
	switch {
	case err != nil:
		out.Broken = "base_url is malformed"
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		out.Broken = "base_url is no http or https URL"
	}
	out.BaseURL = u
	if len(r.GetCredentialSealed()) > 0 {
		plain, err := secret.Open(v.secretKey, workspace, r.GetId(), r.GetCredentialSealed())
		if err != nil {
			out.Broken = "its credential does not open with this proxy's secret key"
		}
		for _, ch := range plain {
			if ch < ' ' || ch == 0x7f {
				out.Broken = "its credential has control characters"
			}
		}
		out.Credential = string(plain)
	}
	if out.Broken != "" {
		v.log.Error("route cannot be used", slog.String("workspace", workspace),
			slog.String("route", out.ID), slog.String("reason", out.Broken))
	}
	return out
}

func orDefault(us int64, d time.Duration) time.Duration {
	if us <= 0 {
		return d
	}
	return time.Duration(us) * time.Microsecond
}
