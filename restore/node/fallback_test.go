package node

import (
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints/checkpointstest"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
)

// Falling back keeps claim, epoch and generation, and says on the Checkpoint what runs in the end and what it costs.
func TestFallingBack(t *testing.T) {
	status := withSafety(v1alpha1.ReasonPackMissing, 2)
	status.Condition(v1alpha1.ConditionRestored).Message = "pack 7 is gone"
	frozen := metav1.NewMicroTime(time.Unix(1000, 0))
	status.Timeline.Frozen, status.Safety.Time = &frozen, metav1.NewMicroTime(time.Unix(960, 0))
	server := checkpointstest.New(t, checkpoint(status))
	events := record.NewFakeRecorder(10)
	p := New(Options{NodeName: "b", Checkpoints: server.Client, Events: events, Log: zerolog.Nop(), HostRoot: t.TempDir()})
	before := server.Get("ns", "job").Status.Claim

	require.NoError(t, p.fallBack(t.Context(), taskOf("new")))
	claim := server.Get("ns", "job").Status.Claim
	require.Equal(t, "PackMissing", claim.Fallback.Reason)
	require.EqualValues(t, 1, claim.Fallback.Generation.Number)
	require.EqualValues(t, 0, claim.Attempts)
	require.Contains(t, <-events.Events, "Warning OlderGeneration generation 2 could not be restored, trying generation 1 instead: pack 7 is gone")
	claim.Fallback, claim.Attempts = nil, before.Attempts
	require.Equal(t, before, claim, "the claim is the same one")
	require.ErrorContains(t, p.fallBack(t.Context(), taskOf("new")), "no older generation", "there is one step back")

	again, err := p.claim(t.Context(), taskOf("new"))
	require.NoError(t, err)
	require.EqualValues(t, 1, again.Status.Claim.Attempts)
	require.EqualValues(t, 1, again.Status.Epoch)
	require.Contains(t, again.Status.Condition(v1alpha1.ConditionRestored).Message, "attempt 1 of 2 with generation 1 on node b, in place of")

	require.NoError(t, p.restored(t.Context(), task{
		Checkpoint: "job", CheckpointUID: "ckpt-1", PrepareRequest: handover.PrepareRequest{ContainerID: "c1", Namespace: "ns", Pod: "job", PodUID: "new"},
	}))
	require.Equal(t, "generation 1 runs on node b, in place of generation 2 (PackMissing); what the job did in the 40s between them is done again",
		server.Get("ns", "job").Status.Condition(v1alpha1.ConditionRestored).Message)
	_, err = p.claim(t.Context(), taskOf("another"))
	require.ErrorIs(t, err, errNothing, "nobody else may restore either of them")
}

// Whatever has become of the newest generation, the one before is opened, and HEAD is fenced.
func TestTheGenerationBeforeOpensWhateverBecameOfTheNewest(t *testing.T) {
	for _, c := range []struct {
		name, object string
		fault        error
	}{
		{"newest manifest damaged", "gen/2-0/manifest", store.ErrManifestCorrupt},
		{"newest manifest gone", "gen/2-0/manifest", store.ErrNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			bucket := mem.New()
			p := New(Options{Cluster: "c", Store: store.New(bucket, store.Keyring{{1}})})
			folder := store.Target{Cluster: "c", Namespace: "ns", Name: "job", UID: "ckpt-1"}
			for n := range int64(2) {
				e := entry(store.TypeRegular, "images/main/pages-1.img")
				e.Size = 4096
				w, err := p.options.Store.Begin(t.Context(), folder, store.Meta{Number: n + 1, Created: time.Now()}, store.WriteOptions{})
				require.NoError(t, err)
				require.NoError(t, w.Add(t.Context(), e, strings.NewReader(strings.Repeat("x", 4096))))
				_, err = w.Commit(t.Context())
				require.NoError(t, err)
			}
			key := folder.Prefix() + c.object
			require.NoError(t, bucket.Delete(t.Context(), key))
			if c.fault == store.ErrManifestCorrupt {
				_, err := bucket.Put(t.Context(), key, []byte("not what it was"), store.Condition{})
				require.NoError(t, err)
			}
			newest := checkpoint(withSafety(v1alpha1.ReasonRestoreImpending, 1))
			_, err := p.open(t.Context(), newest)
			require.ErrorIs(t, err, c.fault)
			require.Equal(t, v1alpha1.ReasonManifestCorrupt, reasonOf(err))

			reader, err := p.open(t.Context(), checkpoint(fellBack(v1alpha1.ReasonRestoreImpending, 1)))
			require.NoError(t, err)
			require.EqualValues(t, 1, reader.Meta().Number)
			head, err := p.options.Store.Head(t.Context(), folder)
			require.NoError(t, err)
			require.EqualValues(t, 1, head.Epoch)
		})
	}
}
