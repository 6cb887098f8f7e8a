package criu

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/test/softdirty"
)

// crun has no lazy dump, and other words than runc.
func TestCrunForReal(t *testing.T) {
	if !softdirty.Inside(t) {
		return
	}
	n, s := newNode(t), newStore()
	n.runc.Binary, n.runc.Root, n.restoreFlags = "/usr/bin/crun", "/run/crun", []string{"--tcp-close", "--file-locks"}
	choice, err := n.runc.Choose(t.Context(), Auto)
	require.NoError(t, err)
	require.Equal(t, Tracked, choice.Way)
	require.Contains(t, choice.Reason, "--lazy-pages")
	t.Logf("%+v, lacks %v", choice, n.runc.lacks)

	status, err := n.runc.Status(t.Context(), "job")
	require.NoError(t, err)
	require.Equal(t, snapshot.StatusStopped, status)
	bundle, root := n.smallContainer(t)
	n.runOCI(t, "run", "--detach", "--bundle", bundle, "job")
	requireRounds(t, root, nil)
	base := n.fullAndRestored(t, s, Engine{Runc: n.runc, Choice: Choice{Full, "the test says so"}}, bundle, root)

	i := n.incremental(t)
	w := beginGeneration(t, s, base)
	for range 2 {
		n.scanned(t, i, "job", w)
	}
	n.built(t, i, "job", w)
	requireStill(t, root)
	n.restored(t, s, "job", bundle, root)
}

// fullAndRestored dumps the container job in full, and restores it.
func (n *node) fullAndRestored(t *testing.T, s *store.Store, engine Engine, bundle, root string) *store.Base {
	t.Helper()
	require.NoError(t, n.runc.Pause(t.Context(), "job"))
	w := beginGeneration(t, s, nil)
	dump, err := engine.Dump(t.Context(), "job", "/run/dump", w.AddPages)
	require.NoError(t, err)
	require.ErrorIs(t, dump.NotLazy, errNotLazy)
	requireStill(t, root)
	complete(t, w, wholly(dump))
	n.restored(t, s, "job", bundle, root)
	return w.Base()
}
