package ports_test

import (
	"net"
	"sync"
	"testing"

	"github.com/rateguard/rateguard/tests/harness/ports"
)

func TestNoAddressIsHandedOutTwice(t *testing.T) {
	t.Parallel()
	var (
		mu   sync.Mutex
		seen = map[string]bool{}
		wg   sync.WaitGroup
	)
	for range 8 {
		wg.Go(func() {
			for range 20 {
				addresses, err := ports.Addresses(t.Context(), 3)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, a := range addresses {
					if seen[a] {
						t.Errorf("%s was handed out twice", a)
					}
					seen[a] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for a := range seen {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", a)
		if err != nil {
			t.Errorf("an address that nobody listens at: %v", err)
			continue
		}
		_ = l.Close()
	}
}
