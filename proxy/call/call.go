// Package call holds what the steps of the request path share: the typed state of one request,
// the table of errors, and the one function that writes an error to a client. It is separate so
// that the steps need not know each other.
package call

import (
	"net/http"
	"time"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/schemas/price"
)

// Handler is one step of the request path. It returns an error instead of writing one:
// *Error is what the client gets, ErrAborted cuts the connection, any other is "internal".
type Handler interface {
	Serve(c *Call) error
}

// HandlerFunc is a Handler made of a function.
type HandlerFunc func(c *Call) error

// Serve calls the function.
func (f HandlerFunc) Serve(c *Call) error { return f(c) }

// Call is the state of one request. Each field has one writer; steps further in only read it.
type Call struct {
	// Writer: the server.
	Writer  http.ResponseWriter
	Request *http.Request
	// ID is our UUIDv7 of the request. Writer: the server.
	ID string
	// Start is when the request arrived, with the monotonic clock. Writer: the server.
	Start time.Time
	// RouteID, Path and Dialect come from the URL alone, before anybody is known. Path is the escaped path
	// below the route. Dialect is a guess until intake has found the route. Writers: the server, then intake.
	RouteID string
	Path    string
	Dialect Dialect

	// Key and Workspace say who is calling with which policy. Writer: auth.
	// KeyInQuery says that the API key stood in the query, which must not go upstream as it is.
	Key        *Key
	Workspace  *Workspace
	KeyInQuery bool

	// Route, Endpoint (template of the path), Body (whole, to be freed by the server) and what was read in it. Writer: intake.
	Route    *Route
	Endpoint string
	Body     []byte
	Asked    Asked
	Context  *rateguardv1.RequestContext

	// Quote is the price and the bound of the cost. Writer: quote.
	Quote Quote

	// Holds are what the budgets reserved, Epoch and Op the grant (0: it was not made in Redis). Checks is what each limit and budget saw.
	// Empty where nothing limits the call. Writers: ratelimit and budget.
	Holds  []*rateguardv1.Hold
	Epoch  uint64
	Op     uint64
	Checks []*rateguardv1.Check
	// Lease is what the holds are taken from; nil: they were reserved for this call. Writer: ratelimit.
	Lease Lease
	// LeaseID is the lease that the opening names, and the end; empty: none. Writer: emit.
	LeaseID string

	// Grant is what the limits gave, to be settled when the end stands in the log; nil: nothing. LimitHeaders go out with every answer.
	// Writer: ratelimit.
	Grant        Grant
	LimitHeaders []Header

	// Result is what came of it. Writer: forward; for a request that was never forwarded emit fills it from the error.
	Result Result

	// Opened and Ended say what of the request stands in the log, LogGeneration where it was opened there: a spool.Generation. Writer: emit.
	Opened        bool
	OpenedAt      time.Time
	LogGeneration uint64
	Ended         bool
}

// Who decided, as checks say it: Redis, what this process had taken from it before, or this process alone while Redis was away.
const (
	DecidedByRedis = "redis"
	DecidedByLease = "lease"
	DecidedLocally = "local"
)

// Lease is what its process has reserved of budgets for calls to come.
type Lease interface {
	// ID is that of its own reservation.
	ID() string
	// Open calls do, which appends the opening of a reservation that is taken from it, or returns an error where it has ended.
	Open(do func() error) error
	// Opened says that the opening stands in the log, or that it never will: what was taken goes back then. Repeats do nothing.
	Opened(opened bool)
}

// Grant is what a call holds of the limits of its workspace.
type Grant interface {
	// Settle gives back what the call did not use. It is called once, after its end was appended to the log and before its
	// answer ends; it tries once and is quick.
	Settle(c *Call)
}

// Header is one field of an answer, its name in canonical form.
type Header struct{ Name, Value string }

// WriteLimitHeaders puts the headers of the limits into an answer.
func (c *Call) WriteLimitHeaders(h http.Header) {
	values := make([]string, len(c.LimitHeaders))
	for i, f := range c.LimitHeaders {
		values[i] = f.Value
		h[f.Name] = values[i : i+1 : i+1]
	}
}

// ReservationID returns the id of the call's one attempt: "<request id>/1".
func ReservationID(c *Call) string { return c.ID + "/1" }

// API is the form of a provider's requests and answers.
type API uint8

// The APIs whose bodies are read. Other means: passed through, governed and recorded, not read.
const (
	Other API = iota
	OpenAIChat
	OpenAICompletions
	OpenAIResponses
	OpenAIEmbeddings
	OpenAIImages
	OpenAIAudio
	AnthropicMessages
	GeminiGenerate
	GeminiEmbed
	// Free calls cost nothing: reading lists, counting tokens.
	Free
)

// Asked is what a request says about itself.
type Asked struct {
	API    API
	Model  string
	Stream bool
	// IncludeUsage says that the client itself asked for the usage chunk of a stream.
	IncludeUsage bool
	// Unbounded says that nothing bounds the cost: it is decoupled from the call (batches, fine-tuning, background, realtime), or has parts
	// that no price list tells (service tiers, tools that the provider runs).
	Unbounded bool
	// UnboundedBy is the field or header that says so; empty: the endpoint.
	UnboundedBy string
	// Stored says that part of the input is kept by the provider and only named in the body.
	Stored bool
	// JSON says that the body is valid JSON with an object at its top.
	JSON bool
	// StreamOptions says that the body has stream_options.
	StreamOptions bool
	// Declared is what bounds the cost of the call.
	Declared price.Declared
	// LeastOutput is the smallest maximum of output tokens that the request can be sent with, as it names another number that has to be below; 0: any.
	LeastOutput int64
	// Cap is the maximum of output tokens that the request is sent with instead of its own; 0: its own. Writers: quote, then ratelimit.
	Cap int64
}

// Unbound notes that nothing bounds the cost because of a field or header of the request.
func (a *Asked) Unbound(by string) {
	if !a.Unbounded {
		a.Unbounded, a.UnboundedBy = true, by
	}
}

// TakesCap reports whether the call's body can name a maximum of output tokens.
func (a *Asked) TakesCap() bool {
	switch a.API {
	case OpenAIChat, OpenAICompletions, OpenAIResponses, AnthropicMessages, GeminiGenerate:
		return a.JSON
	}
	return false
}

// Quote is what a call may cost, pinned when it is opened.
type Quote struct {
	// PriceVersion names the price, or the catalogue that has none for the model; empty when the cost is fixed.
	PriceVersion string
	// Price is nil when the model has none or the cost is fixed.
	Price *price.Price
	// Fixed costs the same whatever is used.
	Fixed     bool
	FixedCost money.Nano
	// Bound is the upper bound of the cost, valid when Bounded.
	Bounded bool
	Bound   money.Nano
	// Unknown is the cost when the outcome stays unknown, valid when HasUnknown.
	HasUnknown bool
	Unknown    money.Nano
}

// Result is what came of a request.
type Result struct {
	// Kind is the first end of the reservation.
	Kind rateguardv1.OutcomeKind
	// Cost is valid when HasCost: a model without a price has none.
	HasCost   bool
	Cost      money.Nano
	Estimated bool
	Usage     price.Usage
	HasUsage  bool
	// Status is what the client got, 499 when it left first. UpstreamStatus is 0 without an answer.
	Status         int
	UpstreamStatus int
	ErrorCode      Code
	// FirstByte is when the first byte of the answer's body came; zero: none.
	FirstByte time.Time
	// Waited is how much of the time was spent waiting for the upstream.
	Waited        time.Duration
	ResponseBytes int64
	// HeadersSent says that the client has part of an answer: no error can be written any more.
	HeadersSent bool
}
