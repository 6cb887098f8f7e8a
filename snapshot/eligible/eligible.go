// Package eligible tells, before any notice, why a pod whose spec says nothing against it (package obstacle) cannot be
// protected: what its running tasks have that CRIU cannot dump or would restore wrongly, and files that are too much for the
// window. Every reason is one of ConditionDumpable.
//
// It reads /proc and stops nothing. What tasks open later it does not see: ask again from time to time. Neither does it see
// what is no task of a container's tree, as processes brought in by exec are not, for these are not dumped.
package eligible

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lifeboat-dev/lifeboat/restore/api/exclude"
	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
	"github.com/lifeboat-dev/lifeboat/snapshot/files"
)

// Sizer measures file trees; *files.Reader is one.
type Sizer interface {
	Sizes(ctx context.Context, pod []snapshot.Container, leaveOut exclude.Patterns) ([]files.Size, error)
}

// Looker looks at pods of this node.
type Looker struct {
	// Proc is the proc file system in which PIDs are those of snapshot.Container.
	Proc string
	// Files measures the trees; nil where nobody asks for FilesTooLarge.
	Files Sizer
}

// Look returns every reason why t cannot be protected that its running tasks and files show, each with its mend, the gravest
// first; empty where it can be. mostFileBytes is how much of files can be copied in the window, 0 for no bound. The error is
// snapshot.ErrGone where a container has ended.
func (l Looker) Look(ctx context.Context, t snapshot.Target, mostFileBytes int64) ([]obstacle.Obstacle, error) {
	inits := make([]int, len(t.Containers))
	for i, c := range t.Containers {
		inits[i] = c.PID
	}
	kept := []string{}
	if t.KeepsIPs {
		kept = t.PodIPs
	}
	found, err := l.tasks(inits, kept)
	if err != nil {
		return nil, err
	}
	together, err := l.Together(t.Containers)
	found = append(found, together...)
	if err != nil || l.Files == nil || mostFileBytes == 0 {
		return found, err
	}
	sizes, err := l.Files.Sizes(ctx, t.Containers, t.LeaveOut)
	if err != nil {
		return nil, err
	}
	return append(found, tooLarge(sizes, mostFileBytes)...), nil
}

// tooLarge is FilesTooLarge or nothing. Its message has no exact sizes, which would change all the time.
func tooLarge(sizes []files.Size, most int64) []obstacle.Obstacle {
	var sum int64
	for _, s := range sizes {
		sum += s.Bytes
	}
	if sum <= most {
		return nil
	}
	slices.SortStableFunc(sizes, func(a, b files.Size) int { return int(min(max(b.Bytes-a.Bytes, -1), 1)) })
	var trees []string
	for _, s := range sizes {
		if s.Bytes*10 >= sum {
			trees = append(trees, s.Tree)
		}
	}
	return []obstacle.Obstacle{{Reason: v1alpha1.ReasonFilesTooLarge, Message: fmt.Sprintf(
		"files in %s: more than the %d MiB that can be copied in the window; leave out what can be made anew by the annotation %s, "+
			"or use a PersistentVolume", strings.Join(trees, ", "), most>>20, v1alpha1.AnnotationExclude)}}
}
