package scale

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQuantile(t *testing.T) {
	inf := math.Inf(1)
	before := map[float64]float64{1: 10, 2: 10, inf: 10}
	for _, c := range []struct {
		name  string
		after map[float64]float64
		q     float64
		want  float64
	}{
		{"within the first bucket", map[float64]float64{1: 20, 2: 20, inf: 20}, 0.5, 0.5},
		{"within the second", map[float64]float64{1: 14, 2: 20, inf: 20}, 0.7, 1.5},
		{"beyond the last bound", map[float64]float64{1: 10, 2: 10, inf: 20}, 0.5, 2},
		{"nothing since", before, 0.5, math.NaN()},
		{"no such metric", map[float64]float64{}, 0.5, math.NaN()},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := quantile(before, c.after, c.q)
			if math.IsNaN(c.want) {
				require.True(t, math.IsNaN(got))
				return
			}
			require.InDelta(t, c.want, got, 1e-9)
		})
	}
}

func TestPercentile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	require.InDelta(t, 3, percentile(values, 0.5), 0)
	require.InDelta(t, 5, percentile(values, 0.99), 0)
	require.InDelta(t, 1, percentile(values, 0), 0)
	require.True(t, math.IsNaN(percentile(nil, 0.5)))
}

func TestAudited(t *testing.T) {
	from := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	log := strings.Join([]string{
		`{"verb":"create","objectRef":{"resource":"pods","subresource":"eviction"},"requestReceivedTimestamp":"2026-11-20T12:00:01.000000Z"}`,
		`{"verb":"get","objectRef":{"resource":"pods"},"requestReceivedTimestamp":"2026-11-20T12:00:02.000000Z"}`,
		`{"verb":"get","objectRef":{"resource":"pods"},"requestReceivedTimestamp":"2026-11-20T12:00:03.000000Z"}`,
		`{"verb":"update","objectRef":{"resource":"leases"},"requestReceivedTimestamp":"2026-11-20T12:00:03.000000Z"}`,
		`{"verb":"get","objectRef":{"resource":"pods"},"requestReceivedTimestamp":"2026-11-20T11:59:59.000000Z"}`,
		`{"verb":"get","objectRef":{"resource":"pods"},"requestReceivedTimestamp":"2026-11-20T12:01:00.000000Z"}`,
		`{"verb":"get","requestURI":"/version","requestReceivedTimestamp":"2026-11-20T12:00:05.000000Z"}`,
	}, "\n") + "\n"
	asked, err := audited(strings.NewReader(log), from, from.Add(time.Minute))
	require.NoError(t, err)
	require.Equal(t, map[string]int{"create pods/eviction": 1, "get pods": 2}, asked)
	_, err = audited(strings.NewReader("spoilt\n"), from, from)
	require.Error(t, err)
}

func TestKindOf(t *testing.T) {
	for path, want := range map[string]string{
		"/api/v1/pods":       "pods",
		"/api/v1/nodes/node": "nodes",
		"/api/v1/namespaces/small/pods/one/eviction":                           "pods/eviction",
		"/apis/lifeboat.dev/v1alpha1/namespaces/big/checkpoints":               "checkpoints",
		"/apis/lifeboat.dev/v1alpha1/namespaces/big/checkpoints/one/status":    "checkpoints/status",
		"/apis/coordination.k8s.io/v1/namespaces/lifeboat-system/leases/lease": "leases",
		"/healthz": "/healthz",
	} {
		require.Equal(t, want, kindOf(path), path)
	}
}

func TestPlaces(t *testing.T) {
	const nodes = 200
	sets, nodesOf, small := map[string]int{}, map[string]map[string]bool{}, map[string]int{}
	for n := range nodes * podsPerNode {
		p := placeOf(n, nodes)
		if p.set != "" {
			id := p.namespace + "/" + p.set
			sets[id]++
			if nodesOf[id] == nil {
				nodesOf[id] = map[string]bool{}
			}
			nodesOf[id][p.node] = true
		}
		small[p.namespace]++
	}
	require.Equal(t, nodes*podsPerNode/2, small[bigNamespace])
	delete(small, bigNamespace)
	for name, pods := range small {
		require.Equal(t, smallNamespace, pods, name)
	}
	for id, pods := range sets {
		require.Equal(t, replicas, pods, id)
		require.Len(t, nodesOf[id], replicas, "each of %s on a node of its own", id)
	}
}

func TestPlans(t *testing.T) {
	require.Equal(t, 10, calm(1000).last)
	p := minute(1000)
	require.Equal(t, 300, p.last-p.first)
	require.Equal(t, time.Minute, time.Duration(p.last-p.first)*p.every)
	require.Equal(t, p.last, leavingNodes(1000))
}
