package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/checkpoints/checkpointstest"
	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
	"github.com/lifeboat-dev/lifeboat/store"
)

func checkpoint(status *v1alpha1.CheckpointStatus) *v1alpha1.Checkpoint {
	return &v1alpha1.Checkpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "job", UID: "ckpt-1"}, Status: *status}
}

func taskOf(podUID string) task {
	return task{PrepareRequest: handover.PrepareRequest{Namespace: "ns", Pod: "job", PodUID: podUID}, Checkpoint: "job", CheckpointUID: "ckpt-1"}
}

func TestClaimHasOneWinner(t *testing.T) {
	server := checkpointstest.New(t, checkpoint(waiting()))
	const racers = 16
	errs := make([]error, racers)
	var group sync.WaitGroup
	for i := range racers {
		group.Go(func() {
			p := New(Options{NodeName: string(rune('a' + i)), Checkpoints: server.Client})
			_, errs[i] = p.claim(t.Context(), taskOf(string(rune('A'+i))))
		})
	}
	group.Wait()
	var winners []int
	for i, err := range errs {
		if err == nil {
			winners = append(winners, i)
		}
	}
	require.Len(t, winners, 1)
	status := server.Get("ns", "job").Status
	require.EqualValues(t, 1, status.Epoch)
	require.Equal(t, string(rune('A'+winners[0])), string(status.Claim.PodUID))
	require.Equal(t, string(rune('a'+winners[0])), status.Claim.NodeName)
	require.True(t, status.IsTrue(v1alpha1.ConditionClaimed))
	require.Equal(t, v1alpha1.ReasonRestoreImpending, status.Condition(v1alpha1.ConditionRestored).Reason)
}

func TestClaimAgain(t *testing.T) {
	for _, c := range []struct {
		name     string
		status   *v1alpha1.CheckpointStatus
		attempts int32
		fault    error
	}{
		{"after a failed restore", claimed(v1alpha1.ReasonRestoreFailed, 1), 2, nil},
		{"a dead bucket is no attempt", claimed(v1alpha1.ReasonBucketFailed, 1), 1, nil},
		{"the last one did not come to CRIU", claimed(v1alpha1.ReasonRestoreImpending, maxAttempts), maxAttempts, nil},
		{"nothing waits", &v1alpha1.CheckpointStatus{}, 0, errNothing},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := checkpointstest.New(t, checkpoint(c.status))
			p := New(Options{NodeName: "b", Checkpoints: server.Client})
			got, err := p.claim(t.Context(), taskOf("new"))
			require.ErrorIs(t, err, c.fault)
			if c.fault == nil {
				require.Equal(t, c.attempts, got.Status.Claim.Attempts)
				require.EqualValues(t, 1, got.Status.Epoch, "the epoch is of the claim, not of the attempt")
			}
		})
	}
}

// A pod may come to a node that does not fit: admission was down, or its labels said otherwise.
func TestANodeThatDoesNotFitDoesNotClaim(t *testing.T) {
	status := waiting()
	status.Generation.Requirements = map[string]string{placement.Architecture: "amd64", placement.Kernel: "6.18", placement.CRIU: "4.2.1"}
	server := checkpointstest.New(t, checkpoint(status))
	offer := placement.Offer{Architecture: "amd64", Kernel: placement.Version{6, 1, 0}, CRIU: placement.Version{4, 2, 1}}
	request := task{PrepareRequest: handover.PrepareRequest{Namespace: "ns", Pod: "job", PodUID: "new"}, Checkpoint: "job", CheckpointUID: "ckpt-1"}
	_, err := New(Options{NodeName: "b", Checkpoints: server.Client, Offer: offer}).claim(t.Context(), request)
	require.ErrorIs(t, err, errUnfit)
	require.ErrorContains(t, err, "kernel 6.18 or newer, not 6.1")
	require.Nil(t, server.Get("ns", "job").Status.Claim, "another node may claim it")

	offer.Kernel = placement.Version{6, 18, 2}
	_, err = New(Options{NodeName: "c", Checkpoints: server.Client, Offer: offer}).claim(t.Context(), request)
	require.NoError(t, err)
}

func TestReasonOf(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"connection refused", errors.New("connection refused"), v1alpha1.ReasonBucketFailed},
		{"another image: another bucket would not help", fmt.Errorf("%w: it is b", errImage), v1alpha1.ReasonImageChanged},
		{"out of time", context.DeadlineExceeded, v1alpha1.ReasonBucketFailed},
		{"another bucket: waited for, not started clean", fmt.Errorf("%w: %w", errElsewhere, store.ErrNotFound), v1alpha1.ReasonBucketFailed},
		{"another key: waited for, not started clean", fmt.Errorf("%w: %w", errElsewhere, store.ErrWrongKey), v1alpha1.ReasonBucketFailed},
		{"data key gone: waited for, it may come back", store.ErrKeyMissing, v1alpha1.ReasonBucketFailed},
		{"data key damaged", store.ErrKeyCorrupt, v1alpha1.ReasonManifestCorrupt},
		{"HEAD damaged", store.ErrHeadCorrupt, v1alpha1.ReasonManifestCorrupt},
		{"manifest gone", store.ErrNotFound, v1alpha1.ReasonManifestCorrupt},
		{"manifest damaged", store.ErrManifestCorrupt, v1alpha1.ReasonManifestCorrupt},
		{"pack gone", store.ErrPackMissing, v1alpha1.ReasonPackMissing},
		{"pack damaged", store.ErrPackCorrupt, v1alpha1.ReasonPackCorrupt},
		{"this node's disk is full", diskFull(fmt.Errorf("%w: %w", errApply, syscall.ENOSPC)), v1alpha1.ReasonNodeDiskFull},
		{"a quota is used up", diskFull(fmt.Errorf("make folder for images: %w", syscall.EDQUOT)), v1alpha1.ReasonNodeDiskFull},
		{"this node's disk is broken", diskFull(fmt.Errorf("%w: %w", errApply, syscall.EIO)), v1alpha1.ReasonRestoreFailed},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, reasonOf(c.err)) })
	}
}
