package scale

import (
	"context"
	"fmt"
	"strconv"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

const (
	// atOnce is how many requests this process has under way.
	atOnce = 48
	// bigNamespace has half of the pods, the others are of smallNamespace pods each.
	bigNamespace, smallNamespace = "big", 100
	// replicas is how many pods a ReplicaSet has. Half of the pods have one as their owner, the others none.
	replicas = 25
)

// offer is what every node offers.
var offer = placement.Offer{Architecture: "amd64", CPULevel: 3, CPUFeatures: "1ff", Kernel: placement.Version{6, 12}, CRIU: placement.Version{4, 2}}

func nodeName(n int) string { return fmt.Sprintf("node-%04d", n) }

// place is where the n-th pod is: the pods of a ReplicaSet are on different nodes, and half of them in the big namespace.
type place struct {
	namespace, name, node string
	// set is the name of its ReplicaSet, empty for a bare pod.
	set string
}

func placeOf(n, nodes int) place {
	k := n / 4
	p := place{namespace: bigNamespace, name: fmt.Sprintf("bare-%d", n), node: nodeName(n % nodes)}
	if n%2 == 1 {
		p.namespace = "small-" + strconv.Itoa(k/(smallNamespace/2))
	}
	if n%4 >= 2 {
		p.set = "set-" + strconv.Itoa(k/replicas)
		p.name = fmt.Sprintf("%s-%d", p.set, n)
	}
	return p
}

// fill makes Nodes and pods that run on them.
func (l *lab) fill(ctx context.Context) error {
	l.say("%d nodes", l.Nodes)
	leaving := leavingNodes(l.Nodes)
	if err := each(ctx, l.Nodes, func(ctx context.Context, n int) error {
		_, err := l.api.CoreV1().Nodes().Create(ctx, nodeOf(nodeName(n), n < leaving), metav1.CreateOptions{})
		return err
	}); err != nil {
		return fmt.Errorf("create nodes: %w", err)
	}
	pods := l.Nodes * podsPerNode
	l.say("%d pods on them", pods)
	if err := l.namespaces(ctx, pods); err != nil {
		return err
	}
	if err := each(ctx, pods, func(ctx context.Context, n int) error { return l.runningPod(ctx, placeOf(n, l.Nodes)) }); err != nil {
		return fmt.Errorf("create pods: %w", err)
	}
	l.say("their ReplicaSets, and a look at all of it")
	sets := map[[2]string]int{}
	for n := range pods {
		if p := placeOf(n, l.Nodes); p.set != "" {
			sets[[2]string{p.namespace, p.set}]++
		}
	}
	for key, count := range sets {
		if _, err := l.api.AppsV1().ReplicaSets(key[0]).Create(ctx, setOf(key[0], key[1], count), metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create ReplicaSet: %w", err)
		}
	}
	var err error
	if l.world, err = watchWorld(ctx, l); err != nil {
		return err
	}
	return l.world.awaitAdopted(ctx, pods)
}

// each calls do for 0 to n-1, many at once.
func each(ctx context.Context, n int, do func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// namespaces makes those of the pods, with the account that pods of theirs want.
func (l *lab) namespaces(ctx context.Context, pods int) error {
	names := map[string]bool{}
	for n := range pods {
		names[placeOf(n, l.Nodes).namespace] = true
	}
	for name := range names {
		meta := metav1.ObjectMeta{Name: name}
		if _, err := l.api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create namespace: %w", err)
		}
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		// Where the controllers were quicker it is there.
		_, _ = l.api.CoreV1().ServiceAccounts(name).Create(ctx, account, metav1.CreateOptions{})
	}
	return nil
}

// nodeOf is a node that is ready. One that is to leave takes no more pods, so that no pod is interrupted twice.
func nodeOf(name string, leaving bool) *corev1.Node {
	plenty := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	labels := offer.Labels()
	labels[corev1.LabelHostname], labels[corev1.LabelArchStable], labels[v1alpha1.LabelRuntimeReady] = name, offer.Architecture, "true"
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.NodeSpec{Unschedulable: leaving},
		Status: corev1.NodeStatus{
			Capacity: plenty, Allocatable: plenty,
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(), Reason: "KubeletReady",
			}},
			NodeInfo: corev1.NodeSystemInfo{Architecture: offer.Architecture, OperatingSystem: "linux", KubeletVersion: "v1.36.3"},
		},
	}
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyAlways, AutomountServiceAccountToken: ptr.To(false), EnableServiceLinks: ptr.To(false),
		Containers: []corev1.Container{{
			Name: "job", Image: "registry.example/job:1",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}},
		}},
	}
}

// setOf adopts the pods that there are.
func setOf(namespace, name string, count int) *appsv1.ReplicaSet {
	labels := map[string]string{"app": name, v1alpha1.LabelProtect: "true"}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To(int32(count)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()},
		},
	}
}

// runningPod makes a pod as admission would leave it, on its node, and says that it runs.
func (l *lab) runningPod(ctx context.Context, p place) error {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: p.name, Labels: map[string]string{v1alpha1.LabelProtect: "true"}},
		Spec:       podSpec(),
	}
	pod.Spec.NodeName, pod.Spec.RuntimeClassName = p.node, ptr.To(v1alpha1.RuntimeClassName)
	if p.set != "" {
		pod.Labels["app"] = p.set
	}
	made, err := l.api.CoreV1().Pods(p.namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return l.runs(ctx, made)
}

// runs is what a kubelet says of a pod whose container runs.
func (l *lab) runs(ctx context.Context, pod *corev1.Pod) error {
	now := metav1.Now()
	after := pod.DeepCopy()
	after.Status.Phase, after.Status.StartTime = corev1.PodRunning, &now
	after.Status.Conditions = nil
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		after.Status.Conditions = append(after.Status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	after.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "job", Ready: true, Started: ptr.To(true), Image: pod.Spec.Containers[0].Image, ContainerID: "containerd://" + string(pod.UID),
		ImageID: "registry.example/job@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		State:   corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
	}}
	_, err := l.api.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, after, metav1.UpdateOptions{})
	return err
}
