package proxy

import "crypto/sha256"

// Serves reports whether the configuration in force here lets the key call the route. Whoever has just made
// both waits for it, without a request that would be recorded.
func (s *Server) Serves(key, route string) bool {
	k := s.view.Key(sha256.Sum256([]byte(key)))
	if k == nil || !k.Invoke || !k.AllowsRoute(route) {
		return false
	}
	ws := s.view.Workspace(k.WorkspaceID)
	return ws != nil && !ws.Deleted && ws.Routes[route] != nil
}
