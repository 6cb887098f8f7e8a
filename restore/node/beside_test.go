package node

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// A pod is restored as a whole or not at all: what one of its containers did not wait for, no other one claims.
func TestNothingIsRestoredBesideWhatStartedFromTheBeginning(t *testing.T) {
	t.Run("nothing is claimed", func(t *testing.T) {
		g := newGroup(t)
		g.plain["proxy-1"] = "proxy"
		g.requirePlain(t, "s", "main", 1)
		g.requirePlain(t, "s", "writer", 1)
		require.Nil(t, g.status().Claim, "another pod may claim it")
	})
	t.Run("it does not matter to what was restored, nor to containers of others", func(t *testing.T) {
		g := newGroup(t)
		g.plain["setup-1"], g.plain["debug-1"] = "setup", "debug"
		for _, name := range []string{"proxy", "main", "writer"} {
			g.restore(t, "s", name, 1, true)
		}
		require.Equal(t, v1alpha1.ReasonRestored, g.reason())
	})
	t.Run("what is held already is ended, and the pod begins anew", func(t *testing.T) {
		g := newGroup(t)
		g.restore(t, "s", "proxy", 1, true)
		g.plain["main-1"] = "main" // the agent was away
		_, err := g.create(t, "s", "writer", 1)
		require.ErrorContains(t, err, "has to begin anew")
		require.Equal(t, []string{"kill proxy-1", "kill s"}, g.calls)
		clear(g.plain) // the kubelet ends the pod
		for _, name := range []string{"proxy", "main", "writer"} {
			g.restore(t, "s2", name, 2, true)
		}
		require.Equal(t, v1alpha1.ReasonRestored, g.reason())
	})
	t.Run("a claim that was made is told to be spent", func(t *testing.T) {
		g := newGroup(t)
		g.restore(t, "s", "proxy", 1, true)
		delete(g.frozen, "proxy-1")
		require.NoError(t, g.drop("new"))
		g.plain["proxy-2"] = "proxy"
		g.requirePlain(t, "s", "main", 1)
		require.Equal(t, v1alpha1.ReasonStartedClean, g.reason())
	})
}
