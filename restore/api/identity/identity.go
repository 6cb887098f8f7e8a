// Package identity says which pods may continue one another, and which Checkpoint a pod has to do with. Agents, controller
// and webhook all ask here, so that they never differ. It is pure: what it decides on is handed in.
//
// Pods of equal key may continue one another. Of pods that share a key (those of a Job, a ReplicaSet) each has a Checkpoint
// of its own; these are interchangeable, and the claim matches them with new pods one to one.
package identity

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// ErrUnnamed says that the pod's identity hangs on its name, and the API server has not given it one yet.
var ErrUnnamed = errors.New("the pod has no name yet")

// maxName is the longest name of an object.
const maxName = 253

// Of reads the identity off a pod. The name of a pod that is only being created may be missing: ErrUnnamed where that
// counts.
func Of(pod *corev1.Pod) (v1alpha1.Identity, error) {
	id := v1alpha1.Identity{Kind: v1alpha1.KindPod, Name: pod.Name}
	owner := metav1.GetControllerOf(pod)
	if owner != nil {
		id.Owner = &v1alpha1.Owner{APIVersion: owner.APIVersion, Kind: owner.Kind, Name: owner.Name, UID: owner.UID}
		id.Kind = kindOf(owner)
	}
	switch id.Kind {
	case v1alpha1.KindStatefulSet:
		id.Program = pod.Labels[appsv1.ControllerRevisionHashLabelKey]
	case v1alpha1.KindJob:
		index, indexed, err := completionIndex(pod)
		if err != nil {
			return id, err
		}
		if indexed {
			id.Kind, id.Index = v1alpha1.KindIndexedJob, &index
		}
	case v1alpha1.KindOther:
		id.Labels, id.Program = stableLabels(pod), program(pod)
	}
	if named(id.Kind) && pod.Name == "" {
		return id, ErrUnnamed
	}
	return id, nil
}

// named tells whether pods of that kind are continued under their own name alone.
func named(kind string) bool { return kind == v1alpha1.KindPod || kind == v1alpha1.KindStatefulSet }

func kindOf(owner *metav1.OwnerReference) string {
	group, _, _ := strings.Cut(owner.APIVersion, "/")
	switch {
	case group == appsv1.GroupName && owner.Kind == "StatefulSet":
		return v1alpha1.KindStatefulSet
	case group == appsv1.GroupName && owner.Kind == "ReplicaSet":
		return v1alpha1.KindReplicaSet
	case group == batchv1.GroupName && owner.Kind == "Job":
		return v1alpha1.KindJob
	}
	return v1alpha1.KindOther
}

// completionIndex reads the index of an Indexed Job's pod: an annotation always, a label since Kubernetes 1.28.
func completionIndex(pod *corev1.Pod) (index int32, indexed bool, err error) {
	text, indexed := pod.Annotations[batchv1.JobCompletionIndexAnnotation]
	if !indexed {
		text, indexed = pod.Labels[batchv1.JobCompletionIndexAnnotation]
	}
	if !indexed {
		return 0, false, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 0 {
		return 0, false, fmt.Errorf("read %s of pod %s/%s: %q is no index", batchv1.JobCompletionIndexAnnotation, pod.Namespace, pod.Name, text)
	}
	return int32(n), true, nil
}

// volatileLabels differ between pods that are the same to their owner, or change in a pod's life: revisions, what Spark and
// Argo number their attempts by or tell progress with, what a service mesh adds on the way. So do those under topology.kubernetes.io/,
// which the API server copies from the node as a pod is bound. docs/design.md has the list.
var volatileLabels = map[string]bool{
	appsv1.ControllerRevisionHashLabelKey: true, appsv1.DefaultDeploymentUniqueLabelKey: true, "pod-template-generation": true,
	"spark-app-selector": true, "sparkoperator.k8s.io/submission-id": true, "workflows.argoproj.io/completed": true,
	"security.istio.io/tlsMode": true, "service.istio.io/canonical-name": true, "service.istio.io/canonical-revision": true,
}

const topologyLabels = "topology.kubernetes.io/"

func stableLabels(pod *corev1.Pod) map[string]string {
	stable := map[string]string{}
	for key, value := range pod.Labels {
		if !volatileLabels[key] && !strings.HasPrefix(key, v1alpha1.GroupName+"/") && !strings.HasPrefix(key, topologyLabels) {
			stable[key] = value
		}
	}
	return stable
}

// volatileEnv differs between pods that are the same to their owner: what Spark and Argo number their attempts by.
var volatileEnv = map[string]bool{"SPARK_APPLICATION_ID": true, "ARGO_NODE_ID": true, "ARGO_POD_NAME": true}

// program hashes what the containers run. An owner of a kind that we do not know may have pods of many kinds under the same
// labels (the steps of a workflow), and none of them may wake up as another. Such steps may differ by their environment alone.
func program(pod *corev1.Pod) string {
	type container struct {
		Name, Image   string
		Command, Args []string
		Env           []corev1.EnvVar
		EnvFrom       []corev1.EnvFromSource
	}
	var all []container
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		env := slices.DeleteFunc(slices.Clone(c.Env), func(e corev1.EnvVar) bool { return volatileEnv[e.Name] })
		all = append(all, container{c.Name, c.Image, c.Command, c.Args, env, c.EnvFrom})
	}
	return hash(all)
}

// Key is the short hash of what counts of an identity: 16 characters, fit for a label's value and for names. It is of use
// within one namespace.
func Key(id v1alpha1.Identity) string {
	counts := v1alpha1.Identity{Kind: id.Kind, Index: id.Index, Program: id.Program, Labels: id.Labels}
	if named(id.Kind) {
		counts.Name = id.Name
	}
	if id.Owner != nil {
		counts.Owner = &v1alpha1.Owner{UID: id.Owner.UID}
	}
	return hash(counts)
}

// hash is of the JSON of v, in which the keys of maps are sorted.
func hash(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and maps of them
	}
	sum := sha256.Sum256(text)
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:10]))
}

// OtherName is the name of a pod's Checkpoint where the pod's own name is taken by a Checkpoint of another identity.
func OtherName(id v1alpha1.Identity) string {
	key := Key(id)
	return id.Name[:min(len(id.Name), maxName-1-len(key))] + "-" + key
}
