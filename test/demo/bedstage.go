package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

// BedStage plays on the test bed: on the one that is up, or on one of its own, which goes with it.
type BedStage struct {
	// Root is the checkout.
	Root string
	// Dir is the bed's state folder; empty means the one of `make cluster`.
	Dir string
	// Store is deploy.StoreS3 or deploy.StoreFile.
	Store string
	// Keep leaves a bed of its own up when this process ends.
	Keep bool

	cluster *bed.Cluster
	// found says that the bed was up before.
	found bool
}

// Up brings up the bed, builds the images, and installs Lifeboat with the project's manifests.
func (s *BedStage) Up(ctx context.Context, say func(format string, args ...any)) (Scene, error) {
	if s.Store != deploy.StoreS3 && s.Store != deploy.StoreFile {
		return Scene{}, fmt.Errorf("store %q: want %s or %s", s.Store, deploy.StoreS3, deploy.StoreFile)
	}
	progress := &lineWriter{say: say}
	if err := s.attach(ctx, progress, say); err != nil {
		return Scene{}, err
	}
	image, err := deploy.BuildImage(ctx, s.cluster, progress)
	if err != nil {
		return Scene{}, err
	}
	folder := filepath.Join(s.Root, "test", "demo", "job")
	job, err := s.cluster.BuildImage(ctx, progress, filepath.Join(folder, "Dockerfile"), folder, "demo-job")
	if err != nil {
		return Scene{}, fmt.Errorf("build the job's image: %w", err)
	}
	say("installing Lifeboat with kubectl apply -k, bucket on %s ...", s.Store)
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	kube, err := deploy.Install(limit, s.cluster, deploy.Options{Store: s.Store, Image: image})
	if err != nil {
		return Scene{}, err
	}
	say("agents and controller are ready, and pods may be restored on both nodes")
	if s.Keep || s.found {
		say("the bed stays up: KUBECONFIG=%s", s.cluster.Kubeconfig)
	}
	return Scene{Kube: kube, JobImage: job}, nil
}

func (s *BedStage) attach(ctx context.Context, progress *lineWriter, say func(format string, args ...any)) error {
	if s.Dir == "" {
		s.Dir = filepath.Join(s.Root, "build", "bed")
	}
	cluster, err := bed.Attach(s.Dir)
	if err == nil {
		s.cluster, s.found = cluster, true
		say("using the test bed that is up in %s", s.Dir)
		return s.restoreNodes(ctx)
	}
	if !errors.Is(err, bed.ErrNotUp) {
		return err
	}
	s.cluster, err = bed.Up(ctx, bed.Options{Dir: s.Dir, Keep: s.Keep, Progress: progress})
	return err
}

// Notice lets the node's metadata service announce its end.
func (s *BedStage) Notice(ctx context.Context, node string, deadline time.Time) error {
	n, err := s.cluster.Node(node)
	if err != nil {
		return err
	}
	return n.Notice(ctx, "terminate", deadline)
}

// Kill ends the node as a power cut does.
func (s *BedStage) Kill(ctx context.Context, node string) error {
	n, err := s.cluster.Node(node)
	if err != nil {
		return err
	}
	return n.Kill(ctx)
}

// Collect writes all logs into the folder.
func (s *BedStage) Collect(ctx context.Context, folder string) error {
	if s.cluster == nil {
		return nil
	}
	return deploy.CollectLogs(ctx, s.cluster, folder)
}

// Down takes a bed of its own down. One that was there before gets its nodes back and loses the demo's pods; Lifeboat
// stays on it.
func (s *BedStage) Down(ctx context.Context) error {
	if s.cluster == nil {
		return nil
	}
	if !s.found {
		if s.Keep {
			return nil
		}
		return s.cluster.Down(ctx)
	}
	return s.restoreNodes(ctx)
}

// restoreNodes starts nodes that are down, takes notices back, and removes the demo's pods.
func (s *BedStage) restoreNodes(ctx context.Context) error {
	for _, name := range []string{fromNode, toNode} {
		n, err := s.cluster.Node(name)
		if err != nil {
			return err
		}
		if _, err := n.PID(); errors.Is(err, bed.ErrNodeDown) {
			if err := n.Start(ctx); err != nil {
				return err
			}
		}
		if err := n.ClearNotice(ctx); err != nil {
			return err
		}
	}
	return s.removePods(ctx)
}

func (s *BedStage) removePods(ctx context.Context) error {
	_, err := s.cluster.Kubectl(ctx, "-n", metav1.NamespaceDefault, "delete", "pod", jobName, referenceName, "--ignore-not-found", "--force", "--grace-period=0")
	return err
}

// lineWriter tells each line that the bed reports, without the bed's own clock before it.
type lineWriter struct {
	say  func(format string, args ...any)
	rest []byte
}

// Write takes any part of the report.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		text := string(line)
		if clock, after, found := strings.Cut(text, "] "); found && strings.HasPrefix(clock, "[") {
			text = after
		}
		w.say("%s", text)
		w.rest = rest
	}
}
