package lua_test

import (
	"strings"
	"testing"

	"github.com/rateguard/rateguard/proxy/lua"
)

func TestStoreURLs(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"redis://localhost", ""},
		{"redis://user:secret@h:6380/2?pool_size=8", ""},
		{"rediss://h:6380", ""},
		{"redis+cluster://h:1?addr=h2:2&addr=h3:3", ""},
		{"rediss+cluster://:secret@h:1", ""},
		{"redis+sentinel://h:26379?master_name=main&addr=h2:26379&password=secret", ""},
		{"rediss+sentinel://h:26379?master_name=main", ""},
		{"", "must begin"},
		{"localhost:6379", "must begin"},
		{"http://h", "must begin"},
		{"http+cluster://h", "must begin"},
		{"redis+ring://h", "must begin"},
		{"redis://h/x", "database"},
		{"redis://h?nosuch=1", "nosuch"},
		{"redis+cluster://h/3", "database"},
		{"redis+sentinel://h", "master_name"},
		{"redis+sentinel://h?master_name=m&replica_only=true", "replica"},
		{"redis+cluster://h?addr=x", "addr"},
		{"redis://user:secret@h:port", "port"},
		{"redis://user:se%cret@h", "escape"},
	} {
		err := lua.ParseStoreURL(c.url)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.url, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %q", c.url, err, c.want)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("%s: the error shows the password: %v", c.url, err)
		}
	}
}
