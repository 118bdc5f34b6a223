package price

import (
	"errors"
	"fmt"
)

// Errors that callers branch on.
var (
	// ErrUnknownModel means that the catalogue has no price for the model; the error is an *UnknownModelError.
	ErrUnknownModel = errors.New("model has no known price")
	// ErrUnbounded means that the cost of a declared call has no upper bound.
	ErrUnbounded = errors.New("cost has no upper bound")
	// ErrInvalidUsage means that a usage contradicts itself: a negative count, or a part larger than its whole.
	ErrInvalidUsage = errors.New("invalid usage")
	// ErrInvalidDeclaration means that a declaration has a negative count where none is allowed.
	ErrInvalidDeclaration = errors.New("invalid declaration")
	// ErrNoInstant means that a query lacks the instant whose price it asks for.
	ErrNoInstant = errors.New("price query without an instant")
	// ErrInvalidOverride means that a price override names an unknown unit, lacks the price of a total, or is negative.
	ErrInvalidOverride = errors.New("invalid price override")
)

// UnknownModelError names the model that has no price. errors.Is(err, ErrUnknownModel) holds.
type UnknownModelError struct {
	Provider string
	Model    string
	// Reason is set where the catalogue knows the model and refuses its price.
	Reason string
}

// Error implements error.
func (e *UnknownModelError) Error() string {
	if e.Reason != "" {
		return fmt.Sprintf("model %q of provider %q has no usable price: %s", e.Model, e.Provider, e.Reason)
	}
	return fmt.Sprintf("model %q of provider %q has no known price", e.Model, e.Provider)
}

// Is makes errors.Is(err, ErrUnknownModel) true.
func (e *UnknownModelError) Is(target error) bool {
	return target == ErrUnknownModel
}
