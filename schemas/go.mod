module github.com/rateguard/rateguard/schemas

go 1.26

require (
	github.com/google/go-cmp v0.7.0
	github.com/planetscale/vtprotobuf v0.6.0
	google.golang.org/protobuf v1.36.12
	pgregory.net/rapid v1.3.0
)
