package sim

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// The control plane beside us: owners of pods, the scheduler, and who tidies up behind nodes. They are never in trouble.

const user, ownerName = "user", "train"

// makeOwner makes what owns the pods.
func (w *world) makeOwner() {
	meta := metav1.ObjectMeta{Name: ownerName, Namespace: namespace}
	replicas := ptr.To(int32(w.plan.replicas))
	var o client.Object
	switch w.plan.kind {
	case bare:
		for i := range w.plan.replicas {
			w.must(w.api.create(w.newPod(fmt.Sprintf("%s-%d", ownerName, i)), user))
		}
		return
	case job:
		o = &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Parallelism: replicas, Completions: replicas}}
	case statefulSet:
		o = &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: replicas}}
	case replicaSet:
		o = &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Replicas: replicas}}
	}
	w.must(w.api.create(o, user))
	w.owner = o
}

// newPod makes a pod of the job; one without a name gets one of its owner's.
func (w *world) newPod(name string) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{v1alpha1.LabelProtect: "true", "app": ownerName}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicy(w.plan.restarts), Containers: []corev1.Container{{Name: "main", Image: "train:1"}},
		},
	}
	if name == "" {
		pod.GenerateName = ownerName + "-"
	}
	if w.owner != nil {
		versions := map[string]string{job: "batch/v1", statefulSet: "apps/v1", replicaSet: "apps/v1"}
		pod.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: versions[w.plan.kind], Kind: w.plan.kind, Name: ownerName, UID: w.owner.GetUID(), Controller: ptr.To(true),
		}}
		pod.Labels["controller-revision-hash"] = "1"
	}
	return pod
}

// watchers wait for changes of the API, and for a while, before they look.
func (w *world) every(f *feed, what string, from, to float64, look func()) {
	for n := uint64(0); w.ctx.Err() == nil; n++ {
		timer := time.NewTimer(5 * time.Second)
		select {
		case <-f.poke:
		case <-timer.C:
		case <-w.ctx.Done():
		}
		timer.Stop()
		if pause(w.ctx, seconds(w.lot(what, n), from, to)) != nil {
			return
		}
		_ = w.locked(func() error {
			f.changed = nil
			look()
			return nil
		})
	}
}

// own makes and counts pods as their owner does.
func (w *world) own() {
	switch w.plan.kind {
	case job:
		w.ownJob()
	case statefulSet:
		for i := range w.plan.replicas {
			name := fmt.Sprintf("%s-%d", ownerName, i)
			switch pod := w.api.pod(name); {
			case pod == nil:
				w.must(w.api.create(w.newPod(name), "statefulset-controller"))
			case over(pod) && pod.DeletionTimestamp == nil:
				w.must(w.api.remove(key{"pods", name}, nil, nil))
			}
		}
	case replicaSet:
		active := 0
		for _, pod := range w.api.pods() {
			if !over(pod) && pod.DeletionTimestamp == nil {
				active++
			}
		}
		for ; active < w.wanted(); active++ {
			w.must(w.api.create(w.newPod(""), "replicaset-controller"))
		}
		w.trim(active - w.wanted())
	}
}

// ownJob makes another pod of a Job where one has failed, and one that is only leaving counts as failed where the Job's policy
// is such.
func (w *world) ownJob() {
	active, succeeded := 0, w.succeeded
	for _, pod := range w.api.pods() {
		switch {
		case pod.Status.Phase == corev1.PodSucceeded:
			w.counted[pod.UID] = true
			succeeded = len(w.counted)
		case pod.Status.Phase == corev1.PodFailed:
			if !disrupted(pod) {
				w.failures[pod.UID] = true
			}
		case pod.DeletionTimestamp != nil && w.plan.terminating:
		default:
			active++
		}
	}
	w.succeeded = succeeded
	current := w.api.now(key{"jobs", ownerName}).(*batchv1.Job)
	if current.Status.Succeeded != int32(succeeded) {
		next := current.DeepCopy()
		next.Status.Succeeded = int32(succeeded)
		if succeeded >= w.plan.replicas {
			next.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
		}
		w.must(w.api.update(next, true))
	}
	for ; active < w.wanted()-succeeded; active++ {
		w.must(w.api.create(w.newPod(""), "job-controller"))
	}
	w.trim(active - max(0, w.wanted()-succeeded))
}

// wanted is how many pods the owner wants now.
func (w *world) wanted() int {
	if at := w.plan.twice; at > 0 && w.since() > at && w.since() < at+40*time.Second {
		return w.plan.replicas + 1
	}
	return w.plan.replicas
}

// trim takes the newest pods away that are too many.
func (w *world) trim(surplus int) {
	pods := w.api.pods()
	for i := len(pods) - 1; i >= 0 && surplus > 0; i-- {
		if pod := pods[i]; !over(pod) && pod.DeletionTimestamp == nil {
			w.note("owner", "pod %s (%s) is one too many", pod.Name, pod.UID)
			w.drained[pod.UID] = true
			w.must(w.api.remove(key{"pods", pod.Name}, nil, nil))
			surplus--
		}
	}
}

func over(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// schedule binds pods to nodes.
func (w *world) schedule() {
	for _, pod := range w.api.pods() {
		if pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil || over(pod) {
			continue
		}
		var fit []string
		for _, m := range w.nodes {
			node := w.api.node(m.name)
			if node == nil || !ready(node) {
				continue
			}
			if len(node.Spec.Taints) == 0 || w.plan.early && m.alive {
				fit = append(fit, m.name)
			}
		}
		if len(fit) == 0 {
			continue
		}
		w.bound++
		name := fit[w.lot("schedule", w.bound).IntN(len(fit))]
		if w.bound <= uint64(w.plan.replicas) {
			name = fit[0] // the first ones where something happens
		}
		next := pod.DeepCopy()
		next.Spec.NodeName = name
		w.note("scheduler", "pod %s (%s) goes to node %s", pod.Name, pod.UID, name)
		w.must(w.api.update(next, false))
	}
}

func ready(node *corev1.Node) bool {
	return len(node.Status.Conditions) > 0 && node.Status.Conditions[0].Status == corev1.ConditionTrue
}

// newNode makes a node with its agent and kubelet.
func (w *world) newNode(name string) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelRuntimeReady: "true"}}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	w.must(w.api.create(node, "kubelet"))
	m := &machine{w: w, name: name, alive: true, skew: w.plan.skew[name]}
	w.nodes = append(w.nodes, m)
	m.startAgent()
	m.startKubelet()
}

// tidy is what happens to the objects of a node that has died: unreachable first, then gone, and its pods after it.
func (w *world) tidy(m *machine) {
	if pause(w.ctx, 10*time.Second) != nil {
		return
	}
	_ = w.locked(func() error {
		if w.api.node(m.name) != nil {
			w.answers(m, corev1.ConditionUnknown)
		}
		return nil
	})
	if pause(w.ctx, w.plan.nodeGone) != nil {
		return
	}
	_ = w.locked(func() error { return w.api.remove(key{"nodes", m.name}, nil, nil) })
	if pause(w.ctx, 20*time.Second) != nil {
		return
	}
	_ = w.locked(func() error {
		for _, pod := range w.api.pods() {
			if pod.Spec.NodeName != m.name {
				continue
			}
			next := pod.DeepCopy()
			if !over(pod) {
				next.Status.Phase = corev1.PodFailed
			}
			next.Status.Conditions = append(next.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
			w.must(w.api.update(next, true))
			w.must(w.api.remove(key{"pods", pod.Name}, &metav1.Preconditions{UID: ptr.To(pod.UID)}, ptr.To(int64(0))))
		}
		return nil
	})
}

// answers has the control plane say whether a node's kubelet does.
func (w *world) answers(m *machine, ready corev1.ConditionStatus) {
	next := w.api.node(m.name).DeepCopy()
	next.Status.Conditions[0].Status, next.Status.Conditions[0].LastTransitionTime = ready, now()
	w.note("node-controller", "node %s is ready: %s", m.name, ready)
	w.api.put(key{"nodes", m.name}, next)
}

// silence has a node seem to be away whose kubelet cannot reach the API server for long.
func (w *world) silence(m *machine, o outage) {
	if pause(w.ctx, o.from+10*time.Second) != nil {
		return
	}
	_ = w.locked(func() error {
		if m.alive {
			w.answers(m, corev1.ConditionUnknown)
		}
		return nil
	})
	if pause(w.ctx, o.to-o.from-9*time.Second) != nil {
		return
	}
	_ = w.locked(func() error {
		if m.alive {
			w.answers(m, corev1.ConditionTrue)
		}
		return nil
	})
}

// drain evicts a node's pods, as handlers of notices do.
func (w *world) drain(m *machine) {
	for _, pod := range w.api.pods() {
		if pod.Spec.NodeName == m.name && !over(pod) {
			w.note("drain", "pod %s (%s)", pod.Name, pod.UID)
			w.drained[pod.UID] = true
			if c := w.containerOf(pod.UID); c != nil && w.plan.troubled() && !w.isFinal(c) {
				w.excuse(c.lineage, "its pod was drained by others, and something kept us from evacuating it before")
			}
			w.must(w.api.evict(pod.Name, &metav1.DeleteOptions{}))
		}
	}
}
