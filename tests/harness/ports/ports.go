// Package ports hands out addresses to the processes that tests start.
//
// Asking the kernel for a free port and giving it back does not do: it may give the same one again a moment later, to us or as the port of somebody's connection.
package ports

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// The ports lie below those that connections get by themselves (from 32,768 on Linux).
const (
	first = 22_000
	many  = 10_000
)

// kept holds the claims of this process; they end with it.
var kept = make(chan net.PacketConn, many) //nolint:gochecknoglobals // ports belong to the process

// Addresses returns n loopback addresses, host:port, that nobody listens at. While this process lives nobody else who asks here is given them: the UDP port
// of the same number is the claim.
func Addresses(ctx context.Context, n int) ([]string, error) {
	found := make([]string, 0, n)
	for port := first + rand.IntN(many); len(found) < n; port = first + (port+1-first)%many {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		ok, err := claim(ctx, address)
		if err != nil {
			return nil, err
		}
		if ok {
			found = append(found, address)
		}
	}
	return found, nil
}

// claim says whether the address is ours now.
func claim(ctx context.Context, address string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("taking a port: %w", err)
	}
	var lc net.ListenConfig
	held, err := lc.ListenPacket(ctx, "udp", address)
	if err != nil {
		return false, nil //nolint:nilerr // somebody has it
	}
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return false, held.Close() // somebody listens there
	}
	if err := l.Close(); err != nil {
		return false, errors.Join(fmt.Errorf("giving a port back: %w", err), held.Close())
	}
	kept <- held
	return true, nil
}
