package placement

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// maxExcluded bounds how many sets of features one affinity excludes: beyond it agents have to refuse.
const maxExcluded = 64

// Terms are what a node's labels must satisfy for a generation with these requirements to be restored there. nodes are
// the labels of the nodes there are.
func Terms(requirements map[string]string, nodes []map[string]string) []corev1.NodeSelectorRequirement {
	var out []corev1.NodeSelectorRequirement
	if need := requirements[Architecture]; need != "" {
		out = append(out, corev1.NodeSelectorRequirement{Key: corev1.LabelArchStable, Operator: corev1.NodeSelectorOpIn, Values: []string{need}})
	}
	level, _ := strconv.Atoi(requirements[CPULevel])
	out = atLeast(out, v1alpha1.LabelCPULevel, level)
	out = atLeast(out, v1alpha1.LabelKernel, ParseVersion(requirements[Kernel]).minor().number())
	out = atLeast(out, v1alpha1.LabelCRIU, ParseVersion(requirements[CRIU]).number())
	if sets := insufficient(requirements, nodes); len(sets) > 0 {
		out = append(out, corev1.NodeSelectorRequirement{Key: v1alpha1.LabelCPUFeatures, Operator: corev1.NodeSelectorOpNotIn, Values: sets})
	}
	return out
}

// atLeast asks for a label of at least n. Level 1 and what is not known are not asked for: every node has them.
func atLeast(terms []corev1.NodeSelectorRequirement, label string, n int) []corev1.NodeSelectorRequirement {
	if n <= 1 {
		return terms
	}
	return append(terms, corev1.NodeSelectorRequirement{Key: label, Operator: corev1.NodeSelectorOpGt, Values: []string{strconv.Itoa(n - 1)}})
}

// insufficient lists the sets of features on nodes of the right architecture that lack something.
func insufficient(requirements map[string]string, nodes []map[string]string) []string {
	need := requirements[CPUFeatures]
	if need == "" {
		return nil
	}
	var sets []string
	for _, labels := range nodes {
		have := labels[v1alpha1.LabelCPUFeatures]
		if have == "" || slices.Contains(sets, have) || labels[corev1.LabelArchStable] != requirements[Architecture] {
			continue
		}
		if len(lacking(requirements[Architecture], need, have)) > 0 {
			sets = append(sets, have)
		}
	}
	slices.Sort(sets)
	return sets[:min(len(sets), maxExcluded)]
}

// Require adds terms to what the pod requires of its node already: both must hold. Terms that are there are not added again.
func Require(spec *corev1.PodSpec, terms []corev1.NodeSelectorRequirement) {
	if len(terms) == 0 {
		return
	}
	if spec.Affinity == nil {
		spec.Affinity = &corev1.Affinity{}
	}
	if spec.Affinity.NodeAffinity == nil {
		spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	affinity := spec.Affinity.NodeAffinity
	if affinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		affinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: terms}}}
		return
	}
	// One of the alternatives must hold, so the terms go into each. An empty one matches no node and must not begin to.
	alternatives := affinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	for i := range alternatives {
		if len(alternatives[i].MatchExpressions)+len(alternatives[i].MatchFields) == 0 {
			continue
		}
		for _, term := range terms {
			same := func(have corev1.NodeSelectorRequirement) bool { return equality.Semantic.DeepEqual(have, term) }
			if !slices.ContainsFunc(alternatives[i].MatchExpressions, same) {
				alternatives[i].MatchExpressions = append(alternatives[i].MatchExpressions, term)
			}
		}
	}
}
