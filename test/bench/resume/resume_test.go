package resume

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

var begin = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }

// gone is a Checkpoint whose pod went on in these seconds.
func gone(released, claimed, fetched, resumed int) *v1alpha1.Checkpoint {
	moment := func(seconds int) *metav1.MicroTime {
		m := metav1.NewMicroTime(at(seconds))
		return &m
	}
	c := &v1alpha1.Checkpoint{}
	c.Status.Claim = &v1alpha1.Claim{}
	c.Status.Timeline = &v1alpha1.Timeline{
		Released: moment(released), Claimed: moment(claimed), Fetched: moment(fetched), Resumed: moment(resumed),
	}
	return c
}

func TestStretches(t *testing.T) {
	pod := moment{created: at(1), bound: at(3)}
	got, err := stretchesOf(gone(0, 6, 10, 15), pod)
	require.NoError(t, err)
	require.Equal(t, map[string]float64{whole: 15, creating: 1, binding: 2, sandbox: 3, fetching: 4, resuming: 5}, got)
	var sum float64
	for _, name := range stretches {
		sum += got[name]
	}
	require.InDelta(t, got[whole], sum, 1e-9, "the parts are the whole")

	_, err = stretchesOf(gone(0, 6, 10, 15), moment{})
	require.ErrorContains(t, err, "lacks")
	lacking := gone(0, 6, 10, 15)
	lacking.Status.Timeline.Fetched = nil
	_, err = stretchesOf(lacking, pod)
	require.ErrorContains(t, err, "lacks")
}

func TestSizeRows(t *testing.T) {
	l := &lab{Series: rows.Series{}}
	in := sizeName(64)
	for _, name := range append([]string{fromDisk, fromRAM}, stretches...) {
		l.Add(in+name, 1)
	}
	l.Add(in+whole, 4)
	all := l.sizeRows(in)
	require.Len(t, all, 2+len(stretches))
	require.Equal(t, "64 MiB: released to resumed", all[0].Name)
	require.InDelta(t, 4, *all[0].Ratio, 1e-9)
}

func TestCrowdRows(t *testing.T) {
	l := &lab{pods: &moments{all: map[types.UID]*moment{"": {created: at(1), bound: at(1)}}}}
	points := []v1alpha1.Checkpoint{*gone(0, 2, 3, 4), *gone(1, 2, 3, 9), *gone(1, 2, 3, 6)}
	all, err := l.crowdRows("", points, []float64{2, 4}, usage{memoryTo: 3 * mib, disk: crowd * crowdMiB * mib / 2})
	require.NoError(t, err)
	value := map[string]float64{}
	for _, row := range all {
		require.False(t, row.Value != row.Value, row.Name)
		value[row.Name] = row.Value
	}
	require.InDelta(t, 4, value["released to resumed of each pod, first"], 1e-9)
	require.InDelta(t, 5, value["released to resumed of each pod, median"], 1e-9)
	require.InDelta(t, 8, value["released to resumed of each pod, last"], 1e-9)
	require.InDelta(t, 9, value["first released to resumed, last"], 1e-9)
	require.InDelta(t, 2, *all[3].Ratio, 1e-9, "the last of ours against the last of those started anew")
}

func TestOtherContainer(t *testing.T) {
	text, err := otherContainer([]byte(`{"root":{"path":"rootfs","readonly":true},"linux":{"cgroupsPath":"/kubepods/pod1/abc"},"x":1}`), "/there")
	require.NoError(t, err)
	var spec map[string]any
	require.NoError(t, json.Unmarshal(text, &spec))
	require.Equal(t, map[string]any{
		"root": map[string]any{"path": "/there", "readonly": true}, "linux": map[string]any{"cgroupsPath": "/kubepods/pod1/abc-bench"}, "x": 1.0,
	}, spec)
	_, err = otherContainer([]byte(`{}`), "")
	require.Error(t, err)
}

func TestLinkImages(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	images := filepath.Join(from, "container", "images")
	require.NoError(t, os.MkdirAll(images, 0o755))
	for _, name := range []string{inventory, "pages-1.img"} {
		require.NoError(t, os.WriteFile(filepath.Join(images, name), []byte(name), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(from, "container", "record.json"), nil, 0o600))
	for range 2 {
		require.NoError(t, linkImages(from, to))
	}
	require.NoError(t, os.RemoveAll(images))
	kept, err := os.ReadDir(to)
	require.NoError(t, err)
	require.Len(t, kept, 2)
	require.NoError(t, linkImages(filepath.Join(from, "none"), to))
	require.NoError(t, evict(to))
}
