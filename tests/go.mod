module github.com/rateguard/rateguard/tests

go 1.26.0

require (
	github.com/rateguard/rateguard/deploy v0.0.0
	github.com/rateguard/rateguard/processors v0.0.0
	github.com/rateguard/rateguard/projections v0.0.0
	github.com/rateguard/rateguard/proxy v0.0.0
	github.com/rateguard/rateguard/schemas v0.0.0
	github.com/rateguard/rateguard/topics v0.0.0
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/pierrec/lz4/v4 v4.1.33 // indirect
	github.com/twmb/franz-go v1.22.2 // indirect
	github.com/twmb/franz-go/pkg/kadm v1.19.0 // indirect
	github.com/twmb/franz-go/pkg/kmsg v1.15.0 // indirect
)

replace (
	github.com/rateguard/rateguard/deploy => ../deploy
	github.com/rateguard/rateguard/processors => ../processors
	github.com/rateguard/rateguard/projections => ../projections
	github.com/rateguard/rateguard/proxy => ../proxy
	github.com/rateguard/rateguard/schemas => ../schemas
	github.com/rateguard/rateguard/topics => ../topics
)
