package standalone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
)

// listen opens every socket before anything else starts, so that a port in use is said at once.
func (c *Config) listen(ctx context.Context) error {
	var errs []error
	var lc net.ListenConfig
	for _, s := range []struct {
		flag, addr string
		l          *net.Listener
	}{
		{"proxy-addr", c.ProxyAddr, &c.Listeners.Proxy},
		{"admin-addr", c.AdminAddr, &c.Listeners.Admin},
		{"ops-addr", c.OpsAddr, &c.Listeners.Ops},
		{"mock-addr", c.MockAddr, &c.Listeners.Mock},
	} {
		if *s.l != nil || s.addr == "" {
			continue
		}
		l, err := lc.Listen(ctx, "tcp", s.addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			env := "RATEGUARD_" + strings.ToUpper(strings.ReplaceAll(s.flag, "-", "_"))
			errs = append(errs, fmt.Errorf("%s is in use by another program: stop it, or choose another address with --%s or %s", s.addr, s.flag, env))
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.flag, err))
			continue
		}
		*s.l = l
	}
	if err := errors.Join(errs...); err != nil {
		c.closeListeners()
		return err
	}
	return nil
}

// closeListeners frees the sockets that nobody serves.
func (c *Config) closeListeners() {
	for _, l := range []net.Listener{c.Listeners.Proxy, c.Listeners.Admin, c.Listeners.Ops, c.Listeners.Mock} {
		if l != nil {
			_ = l.Close()
		}
	}
}

// reachable returns the base URL of a listener for a client on this machine.
func reachable(l net.Listener) string {
	if l == nil {
		return ""
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return "http://" + l.Addr().String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}
