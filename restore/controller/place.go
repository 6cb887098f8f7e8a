package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/lifeboat-dev/lifeboat/restore/api/placement"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// maxNodesNamed bounds how many nodes an event names.
const maxNodesNamed = 8

// place looks after a new pod that is to go on from the Checkpoint's generation: where no node can restore it, it says what
// is missing, and from a node that cannot it takes the pod away, so that another one is made. Admission sees to it that
// this is not needed, as long as it is there.
func (r *Reconciler) place(ctx context.Context, o *observation, pod *corev1.Pod, ck *v1alpha1.Checkpoint) error {
	gen := ck.Status.UnclaimedGeneration()
	if gen == nil || pod.DeletionTimestamp != nil || over(pod) {
		return nil
	}
	owned := metav1.GetControllerOf(pod) != nil
	if !owned && !isReplacement(pod, ck, gen) {
		return nil // nobody would make another one
	}
	tell := func(reason, action, text string) {
		o.notes = append(o.notes, note{corev1.EventTypeWarning, reason, action, text, pod, ck})
	}
	if owned && ptr.Deref(pod.Spec.RuntimeClassName, "") == "" {
		return r.readmit(ctx, o, pod, gen, tell)
	}
	if pod.Spec.NodeName == "" {
		if !unschedulable(pod) {
			return nil
		}
		nodes, err := r.nodes(ctx)
		if err != nil {
			return err
		}
		if why, none := unfit(gen, nodes); none {
			tell(EventNoNodeFits, "Place", why)
		}
		return nil
	}
	node, err := r.nodeOf(ctx, pod.Spec.NodeName)
	// A node without these labels has an agent of before, which asks for nothing.
	if err != nil || node == nil || node.Labels[v1alpha1.LabelKernel] == "" {
		return err
	}
	missing := placement.Missing(gen.Requirements, placement.OfNode(node.Labels))
	if missing == nil {
		return nil
	}
	// Where admission is down, the next one may come here as well: one after the other, not as fast as can be.
	if left := rejectedDelay - r.Now().Sub(pod.CreationTimestamp.Time); left > 0 {
		o.again = left
		return nil
	}
	tell(EventMisplaced, "Place", fmt.Sprintf("node %s cannot restore generation %d, taken on node %s, which requires %s: the pod is evicted",
		node.Name, gen.Number, gen.NodeName, strings.Join(missing, "; ")))
	return r.evict(ctx, pod)
}

// readmit takes away a new pod that was created while admission was down, before it starts from the beginning: its owner
// makes another one, which gets the RuntimeClass. First the API server is asked whether it would.
func (r *Reconciler) readmit(ctx context.Context, o *observation, pod *corev1.Pod, gen *v1alpha1.GenerationReference, tell func(reason, action, text string)) error {
	trial := &corev1.Pod{Spec: *pod.Spec.DeepCopy()}
	trial.Namespace, trial.GenerateName, trial.Labels = pod.Namespace, "lifeboat-trial-", pod.Labels
	trial.Spec.NodeName = ""
	o.again = time.Second // the call may have gone to a replica that is not there any more
	if err := r.Client.Create(ctx, trial, client.DryRunAll); err != nil {
		log.FromContext(ctx).Info("not known whether admission works", "cause", err.Error())
		return nil
	}
	if ptr.Deref(trial.Spec.RuntimeClassName, "") != v1alpha1.RuntimeClassName {
		return nil
	}
	tell(EventNotAdmitted, "Place", fmt.Sprintf("created while Lifeboat's webhook did not answer, so that it would start from the beginning "+
		"while generation %d waits: the pod is evicted, for another one to go on", gen.Number))
	return r.evict(ctx, pod)
}

// nodes lists the nodes by name.
func (r *Reconciler) nodes(ctx context.Context) ([]corev1.Node, error) {
	var list corev1.NodeList
	if err := r.Client.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	return list.Items, nil
}

// unschedulable tells whether the scheduler has found no node for the pod.
func unschedulable(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable
	})
}

// unfit says of each node why the generation cannot be restored there, and whether that holds for all of them.
func unfit(gen *v1alpha1.GenerationReference, nodes []corev1.Node) (why string, none bool) {
	var words []string
	for i := range nodes {
		reason := unfitNode(gen, &nodes[i])
		if reason == "" {
			return "", false
		}
		words = append(words, nodes[i].Name+": "+reason)
	}
	if more := len(words) - maxNodesNamed; more > 0 {
		words = append(words[:maxNodesNamed], fmt.Sprintf("and %d more", more))
	}
	return fmt.Sprintf("no node can restore generation %d, taken on node %s: %s", gen.Number, gen.NodeName, strings.Join(words, ", ")), true
}

func unfitNode(gen *v1alpha1.GenerationReference, node *corev1.Node) string {
	if node.Labels[v1alpha1.LabelRuntimeReady] != "true" {
		return "no ready lifeboat-agent"
	}
	if slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == v1alpha1.TaintEvacuating }) {
		return "is being evacuated"
	}
	if node.Spec.Unschedulable {
		return "is cordoned"
	}
	if missing := placement.Missing(gen.Requirements, placement.OfNode(node.Labels)); missing != nil {
		return "lacks " + strings.Join(missing, "; ")
	}
	return ""
}

// require sends a replacement to nodes that can restore the generation, as admission would.
func (r *Reconciler) require(ctx context.Context, pod *corev1.Pod, gen *v1alpha1.GenerationReference) error {
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	labels := make([]map[string]string, len(nodes))
	for i := range nodes {
		labels[i] = nodes[i].Labels
	}
	placement.Require(&pod.Spec, placement.Terms(gen.Requirements, labels))
	return nil
}
