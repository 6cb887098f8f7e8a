package main

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// indexes is a cache that counts the indexes it is asked for.
type indexes struct {
	cache.Cache
	made int
}

func (i *indexes) IndexField(context.Context, client.Object, string, client.IndexerFunc) error {
	i.made++
	return nil
}

// Terms come and go, the cache stays: its indexes are made once, and the end of a term is not its end.
func TestTermsShareOneCache(t *testing.T) {
	below := &indexes{}
	shared := &sharedCache{Cache: below, indexed: map[string]bool{}}
	for range 3 {
		for _, field := range []string{"pods", "owners"} {
			require.NoError(t, shared.IndexField(t.Context(), &corev1.Pod{}, field, nil))
		}
		require.NoError(t, shared.IndexField(t.Context(), &corev1.Node{}, "pods", nil))
		term, end := context.WithCancel(t.Context())
		end()
		require.NoError(t, shared.Start(term))
	}
	require.Equal(t, 3, below.made)
}
