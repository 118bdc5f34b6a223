// Package price knows what calls cost. It holds the catalogue of prices, the one
// function that turns a usage into money (Price.Cost) and the one that bounds the
// cost of a call before it is sent (Price.Bound). The proxy settles with it and replay
// checks with it, so it reads no clock, no network and no randomness: equal
// arguments give equal results for ever.
package price
