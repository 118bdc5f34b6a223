module github.com/rateguard/rateguard/tests

go 1.26

require (
	github.com/rateguard/rateguard/schemas v0.0.0
	github.com/rateguard/rateguard/topics v0.0.0
	github.com/rateguard/rateguard/proxy v0.0.0
	github.com/rateguard/rateguard/processors v0.0.0
	github.com/rateguard/rateguard/projections v0.0.0
	github.com/rateguard/rateguard/deploy v0.0.0
)

replace (
	github.com/rateguard/rateguard/schemas => ../schemas
	github.com/rateguard/rateguard/topics => ../topics
	github.com/rateguard/rateguard/proxy => ../proxy
	github.com/rateguard/rateguard/processors => ../processors
	github.com/rateguard/rateguard/projections => ../projections
	github.com/rateguard/rateguard/deploy => ../deploy
)
