//go:build !linux

package postgres

import "errors"

func rootIdentity() (identity, error) {
	return identity{}, errors.New("PostgreSQL refuses to run as root: start as another user, or set RATEGUARD_POSTGRES_URL")
}

func (i identity) own(string) error { return nil }
