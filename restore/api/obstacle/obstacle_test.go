package obstacle

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func TestText(t *testing.T) {
	all := []Obstacle{
		{v1alpha1.ReasonIOUring, "io_uring in node: no; do without"}, {v1alpha1.ReasonMPTCP, "multipath; without"},
	}
	require.Equal(t, "IOUring: io_uring in node: no; do without\nMPTCP: multipath; without", Text(all))
	require.Equal(t, all, Parse(Text(all)))
	require.Empty(t, Text(nil))
	require.Empty(t, Parse(""))
	require.Empty(t, Parse("protected on node a\nsee: there"), "no reason that a pod may have")
	require.Equal(t, all[:1], Parse(Text([]Obstacle{{all[0].Reason, "io_uring in node: no;\ndo without"}})))
	require.Equal(t, all[1:], Without(all, all[:1]))
	require.Empty(t, Without(all, all))
	require.Equal(t, all, Without(all, nil))
}
