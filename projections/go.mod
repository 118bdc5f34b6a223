module github.com/rateguard/rateguard/projections

go 1.26

require (
	github.com/rateguard/rateguard/schemas v0.0.0
	github.com/rateguard/rateguard/topics v0.0.0
)

replace (
	github.com/rateguard/rateguard/schemas => ../schemas
	github.com/rateguard/rateguard/topics => ../topics
)
