package envelope

import (
	"net/url"
	"time"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// appendCloudEvent appends what makes a record a CloudEvent 1.0 in the binary mode of the Kafka protocol binding: attributes as headers with
// the prefix "ce_", the data's media type in "content-type", and the value as it is, an Event. Alerts have them, which other systems read.
func appendCloudEvent(h []Header, e *rateguardv1.Event, a *rateguardv1.Alert) []Header {
	return append(
		h,
		Header{"ce_specversion", []byte("1.0")},
		Header{"ce_id", []byte(e.GetId())},
		Header{"ce_source", []byte("/rateguard/workspaces/" + url.PathEscape(e.GetWorkspaceId()))},
		Header{"ce_type", []byte("rateguard.alert." + a.GetState())},
		Header{"ce_subject", []byte(a.GetRule())},
		Header{"ce_time", time.UnixMicro(e.GetOccurredAtUnixUs()).UTC().AppendFormat(nil, time.RFC3339Nano)},
		Header{"content-type", []byte("application/protobuf")},
	)
}
