package identity

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// noticeWithin is how long after an eviction a notice may still be heard that the evicting side knew of: agents ask every two
// seconds, and have to record it.
const noticeWithin = 5 * time.Second

// evicted tells whether another pod, the Checkpoint's bearer, was evicted so lately that its evacuation may not have been
// recorded yet. It only makes a new pod wait.
func evicted(c *v1alpha1.Checkpoint, pod types.UID, now time.Time) bool {
	s := &c.Status
	return s.Evicted != nil && s.Pod != nil && s.Pod.UID != pod && s.Evicted.PodUID == s.Pod.UID && c.DeletionTimestamp == nil &&
		!s.Ended() && (s.Timeline == nil || s.Timeline.PodUID != s.Pod.UID) && now.Before(s.Evicted.Time.Add(noticeWithin))
}
