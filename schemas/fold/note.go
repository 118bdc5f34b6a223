// Package fold holds what all folds of the log share: the notes they leave for an operator and the
// value in which a table keeps their state. It is separate so that whoever reads a table, in whatever
// role, decides by the same rule which of two values counts.
package fold

// Note is something that an operator has to know of; whoever runs the fold counts and logs it.
type Note struct {
	// Kind is a constant in snake case.
	Kind   string
	Detail string
}
