package child

import (
	"context"
	"fmt"
	"net"
)

// Ports returns n free ports of the loopback address. They are taken together, because asked
// for one by one the kernel gives the same port twice.
func Ports(ctx context.Context, n int) ([]int, error) {
	listeners := make([]net.Listener, 0, n)
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	ports := make([]int, 0, n)
	var lc net.ListenConfig
	for range n {
		l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("taking a free port: %w", err)
		}
		listeners = append(listeners, l)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port) //nolint:errcheck,forcetypeassert // of a TCP socket
	}
	return ports, nil
}
