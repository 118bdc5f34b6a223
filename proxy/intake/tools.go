package intake

import (
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/rateguard/rateguard/proxy/call"
)

// Tools that the client runs itself: the provider only writes down that they are wanted. All others the provider runs: it charges for them by
// prices of their own, and calls the model again with each result, so that neither fees nor the input of all these calls have a bound.
var (
	clientTypes    = []string{"", "function", "custom", "namespace", "local_shell", "apply_patch"}
	clientPrefixes = []string{"bash_", "text_editor_", "memory_", "computer"}
	clientKinds    = []string{"functiondeclarations", "computeruse"}
)

func clientRun(kind string) bool {
	return slices.Contains(clientTypes, kind) || slices.ContainsFunc(clientPrefixes, func(p string) bool { return strings.HasPrefix(kind, p) })
}

// Service tiers that cost what the price list says, or less.
var ordinaryTiers = []string{"", "auto", "default", "standard", "standard_only", "on_demand", "flex", "service_tier_standard", "service_tier_flex", "service_tier_unspecified"}

// surcharged reports whether a watched key makes the call cost what no price list tells, or moves its cost out of the call.
func surcharged(c *call.Call, i int, v gjson.Result) bool {
	given := v.Type != gjson.Null && v.Type != gjson.False && v.Raw != "[]" && v.Raw != "{}"
	value := strings.ToLower(v.String())
	switch i {
	case watched["servicetier"]:
		return given && !slices.Contains(ordinaryTiers, value)
	case watched["speed"]: // of an answer; of a voice it is a number
		return v.Type == gjson.String && value != "standard" && value != "default"
	case watched["inferencegeo"]:
		return given && value != "global" && value != "not_available"
	case watched["contextmanagement"]: // a summary is a call of its own; leaving out costs nothing
		return given && (strings.Contains(value, "compact") || strings.Contains(value, `\u`))
	case watched["deferred"], watched["mcpservers"], watched["plugins"], watched["preset"], watched["fallbacks"]:
		return given
	case watched["provider"]: // the router's choice among sellers, who have prices of their own
		return given && c.Route.Provider == "openrouter"
	}
	return false
}
